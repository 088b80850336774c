"""Files that describe themselves, and the model card."""
