"""From configuration to wired objects: the only place that builds shells, and makes real clocks and chance for them."""
