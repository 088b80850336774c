"""What comes from outside: files that others wrote, signals, streams that somebody closes."""
