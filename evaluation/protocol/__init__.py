"""How a data set is evaluated: views, passes, methods."""
