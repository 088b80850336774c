"""Sections of evaluate_config.yaml that stand in files of their own."""
