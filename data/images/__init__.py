"""Image files of any kind become RGB uint8."""
