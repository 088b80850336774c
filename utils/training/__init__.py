"""Machinery of a training run."""
