"""Names and numbers in files: landmarks, labels, scores."""
