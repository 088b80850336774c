"""Tell, before long work, whether images and landmarks can be what the configuration says they are."""
