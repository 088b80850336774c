"""Error versus discard curves, protocols, tables and plots."""
