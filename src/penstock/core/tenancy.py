"""What configuration and keys agree on about tenants."""

from __future__ import annotations

TENANT = "default"
"""The tenant of keys that name none; there without being configured."""

# More than any machine serves in a minute; a larger number is a slip of the hand.
PER_MINUTE_MAX = 10**9
