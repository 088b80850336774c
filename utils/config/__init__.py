"""Typed configuration: YAML in, frozen pydantic models out."""

from utils.config.loading import Flag, StrictModel, dump_config, load_config

__all__ = ["Flag", "StrictModel", "dump_config", "load_config"]
