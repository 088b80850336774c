"""Seeded degraded copies of a folder of images."""
