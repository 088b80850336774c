"""Run machinery: configuration, optimiser, checkpoints, logs. Knows neither data nor model."""
