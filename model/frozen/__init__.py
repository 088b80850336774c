"""Networks that only answer."""
