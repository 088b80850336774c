"""Typed configuration: YAML in, frozen pydantic models out."""

from utils.config.loading import Flag, StrictModel, beside, dump_config, is_default, load_config, load_variant

__all__ = ["Flag", "StrictModel", "beside", "dump_config", "is_default", "load_config", "load_variant"]
