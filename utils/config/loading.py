"""Read a YAML file plus dotted overrides into a typed schema; every mistake is one sentence."""

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo

from utils.config.refusals import hint, section_of, sentence
from utils.errors import ConfigError
from utils.outside.reading import reading, reason, shown


class StrictModel(BaseModel):
    """Base of every schema: frozen; unknown keys and numbers that are not finite are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_params(cls, values: Any) -> Any:
        """Take `params:` without a value, as the official files write it, for no parameters."""
        if isinstance(values, dict) and values.get("params", ...) is None:
            return {key: value for key, value in values.items() if key != "params"}
        return values


def _flag(value: Any) -> Any:
    if value in (0, 1) or isinstance(value, bool):
        return bool(value)
    raise ValueError("expected 0 or 1")


Flag = Annotated[bool, BeforeValidator(_flag)]


def _user_path(value: str) -> str:
    if "\0" in value:
        raise ValueError("a path holds no NUL character")
    return os.path.expanduser(value)


UserPath = Annotated[str, AfterValidator(_user_path)]
"""A file or folder; `~` is the home folder."""
_LONGEST_YAML = 1_000_000
_MOST_NODES = 100_000
Schema = TypeVar("Schema", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML 1.2 floats (1e-3 is a number) and no duplicate keys."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict:
    seen: set = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} appears twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.yaml_implicit_resolvers = {key: list(pairs) for key, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_FLOAT = r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)(?:[eE][-+]?[0-9]+)$"
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_FLOAT), list("-+0123456789."))


def parse_yaml(text: str, place: str) -> Any:
    """Parse YAML text; `place` is what an error names."""
    if len(text) > _LONGEST_YAML:
        raise ConfigError(f"{place}: {len(text):,} characters are more than a configuration has; name another file")
    with reading(place, "not valid YAML", "mend it", ConfigError):
        try:
            loader = _Loader(text)
            node = loader.get_single_node()
            if node is None:
                return None
            _require_bounded(node)
            return loader.construct_document(node)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f", line {mark.line + 1}" if mark else ""
            problem = getattr(error, "problem", None) or reason(error)
            raise ConfigError(f"{place}{where}: not valid YAML ({problem[:120]})") from error


def _require_bounded(node: yaml.Node) -> None:
    """Refuse aliases that stand for their own surroundings, or for one another until nobody can write them out."""
    counts: dict[int, int] = {}

    def count(one: yaml.Node) -> int:
        if not isinstance(one, yaml.CollectionNode):
            return 1
        if counts.setdefault(id(one), 0) == 0:
            parts = [part for item in one.value for part in (item if isinstance(item, tuple) else (item,))]
            counts[id(one)] = -1
            counts[id(one)] = 1 + sum(map(count, parts))
        if counts[id(one)] < 0:
            raise ValueError("an alias stands for what holds it")
        if counts[id(one)] > _MOST_NODES:
            raise ValueError("aliases stand for one another too often")
        return counts[id(one)]

    count(node)


def read_yaml(path: str | Path) -> dict:
    """Read a YAML file whose top level is a mapping."""
    with reading(path, "cannot be read as a configuration", error=ConfigError):
        try:
            text = Path(path).read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise ConfigError(f"{path}: no such configuration file") from error
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of sections at the top level")
    return values


def apply_overrides(values: dict, overrides: Sequence[str]) -> dict:
    """Return `values` with `a.b.c=value` assignments applied; the value is parsed as YAML."""
    values = {**values}
    for override in overrides:
        path, equals, text = override.partition("=")
        keys = path.split(".")
        if not equals or not all(keys):
            raise ConfigError(f"override {override!r}: expected key=value with a dotted key, e.g. base.seed=1")
        node = values
        for key in keys[:-1]:
            child = node.get(key)
            if child is not None and not isinstance(child, dict):
                raise ConfigError(f"override {override!r}: {key!r} is a value, not a section")
            node[key] = {**(child or {})}
            node = node[key]
        node[keys[-1]] = parse_yaml(text, f"override {override!r}")
    return values


def load_config(schema: type[Schema], path: str | Path, overrides: Sequence[str] = ()) -> Schema:
    """Validate the YAML at `path`, with overrides, against `schema`.

    Raises ConfigError naming file, key and, for an unknown key, the nearest known one.
    """
    return validate(schema, _read(schema, path, overrides), str(path))


def load_variant(
    schemas: Mapping[str, type[Schema]], choice: str, path: str | Path, overrides: Sequence[str] = ()
) -> Schema:
    """Validate the YAML at `path`, with overrides, against the schema that its value at the dotted key `choice` names.

    The first schema is that of a file without this key. Keys that only other schemas have are refused, unless they are
    null or hold their default: the config.yaml of a run of an older version names the keys of all methods.
    """
    name = first = next(iter(schemas))
    values = _read(schemas[first], path, overrides)
    *sections, key = choice.split(".")
    node: Any = values
    for section in sections:
        node = node.get(section) if isinstance(node, dict) else None
    if isinstance(node, dict):
        name = node.get(key, first)
    if name not in schemas:
        *others, last = map(repr, schemas)
        raise ConfigError(f"{path}: {choice}: input should be {', '.join(others)} or {last}, found {shown(name)}")
    own = schemas[name]
    values, foreign = _own_values(values, own, {other: schema for other, schema in schemas.items() if other != name})
    if foreign:
        unknown, names = foreign[0]
        belongs = f"with {choice}: {name}, it belongs to {' and '.join(names)}"
        more = f" (and {len(foreign) - 1} more)" if len(foreign) > 1 else ""
        raise ConfigError(f"{path}: unknown key {unknown!r} {belongs}{hint(own, unknown.split('.'))}{more}")
    return validate(own, values, str(path))


def _read(schema: type[BaseModel], path: str | Path, overrides: Sequence[str]) -> dict:
    records = getattr(schema, "RECORDS", ())
    values = {key: value for key, value in read_yaml(path).items() if key not in records}
    return apply_overrides(values, overrides)


def _own_values(
    values: dict, own: type[BaseModel], others: Mapping[str, type[BaseModel]], path: str = ""
) -> tuple[dict, list[tuple[str, list[str]]]]:
    """Return `values` without the keys that only `others` have, and which of these are set, as (key, its owners)."""
    kept, foreign = {}, []
    for key, value in values.items():
        fields = {name: schema.model_fields[key] for name, schema in others.items() if key in schema.model_fields}
        if key not in own.model_fields and fields:
            if not any(_left_out(value, field) for field in fields.values()):
                foreign.append((f"{path}{key}", list(fields)))
            continue
        section = section_of(own.model_fields.get(key))
        if section is not None and isinstance(value, dict):
            inner = {name: model for name, field in fields.items() if (model := section_of(field)) is not None}
            value, more = _own_values(value, section, inner, f"{path}{key}.")
            foreign += more
        kept[key] = value
    return kept, foreign


def _left_out(value: Any, field: FieldInfo) -> bool:
    """Tell whether a value is null, or what the key has when it is left out."""
    default = field.get_default(call_default_factory=True)
    if isinstance(default, BaseModel) and isinstance(value, dict):
        with contextlib.suppress(ValidationError):
            return type(default).model_validate(value) == default
    return value is None or value == default


def beside(path: str, config: str | Path) -> Path:
    """Return `path` as it is when it exists, else the file of that name beside `config`, which names it."""
    own = Path(config).parent / Path(path).name
    return Path(path) if Path(path).is_file() or not own.is_file() else own


def validate(schema: type[Schema], values: Any, place: str) -> Schema:
    """Validate plain values against `schema`; `place` is what an error names."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{place}: {sentence(schema, error)}") from None


def dump_config(config: BaseModel) -> str:
    """Return the resolved configuration as YAML in the schema's order."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def is_default(config: BaseModel, key: str) -> bool:
    """Tell whether the value at a dotted key is the one it has when it is left out."""
    *sections, name = key.split(".")
    for section in sections:
        config = getattr(config, section)
    return getattr(config, name) == type(config).model_fields[name].get_default(call_default_factory=True)
