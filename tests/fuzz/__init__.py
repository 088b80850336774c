"""Fuzzing: seeded mutations of every kind of input, read in child processes with limits; kills at random moments."""
