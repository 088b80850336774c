"""Experiments of many commands in a row: the paper, whole, and one recipe under several seeds."""
