"""Samples, their order, and the workers that fetch them."""
