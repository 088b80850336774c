"""The figures as files, plots and a page."""
