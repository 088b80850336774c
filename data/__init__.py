"""Everything between a file on disk and a uint8 batch."""
