"""Networks and what they are trained for."""
