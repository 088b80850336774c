"""Long work over many images, above data, model and evaluation and below the scripts."""
