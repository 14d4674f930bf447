"""ClickHouse: the tables as numbered migrations, and the delivery of the ledger's rows."""
