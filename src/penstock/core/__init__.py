"""Words everyone shares: errors, records, units, configuration. Imports nothing of Penstock but itself."""
