"""Which images are compared."""
