"""From similarities and scores to figures."""
