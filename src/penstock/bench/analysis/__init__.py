"""From samples to figures, and whether these can be stood behind. Pure."""
