"""Writing the crops of an evaluation, for programs that score files."""
