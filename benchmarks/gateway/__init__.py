"""Penstock's gateway and its peers side by side, on one machine and in one sitting."""
