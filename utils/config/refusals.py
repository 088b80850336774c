"""What a schema says of values it refuses: one sentence that names the key, and where a mistyped one belongs."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from utils.outside.reading import shown

_SURE = 0.7
"""How alike two keys are of which one is the other, mistyped."""
_ALIKE = (
    ("image_location", "loc", "root"),
    ("landms_location", "landmarks"),
    ("quality_location", "labels", "scores"),
    ("weight", "weights"),
)
"""Keys that mean the same in configurations of different scripts."""
_SHAPES: dict[str, str] = {
    **dict.fromkeys(("dict_type", "model_type"), "{KEY: VALUE, ...}"),
    **dict.fromkeys(("list_type", "tuple_type"), "[VALUE, ...]"),
    "string_type": "text (in quotes where it looks like a number or a date)",
}
"""What pydantic expects where the words it has for it are those of Python -> how YAML writes it."""


def sentence(schema: type[BaseModel], error: ValidationError) -> str:
    """Say what is wrong with the first value, unknown keys before others, and how many more there are."""
    details = error.errors(include_url=False)
    unknown = [detail for detail in details if detail["type"] == "extra_forbidden"]
    detail = (unknown or details)[0]
    loc = [str(part) for part in detail["loc"]]
    key = ".".join(loc)
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    if detail["type"] == "extra_forbidden":
        return f"unknown key {key!r}{hint(schema, loc)}{more}"
    if detail["type"] == "missing":
        return f"missing key {key!r}{more}"
    message = detail["msg"].removeprefix("Value error, ")
    if shape := _SHAPES.get(detail["type"]):
        message = f"expected {shape}"
    message = message[:1].lower() + message[1:]
    if not key:
        return f"{message}{more}"
    found = "" if isinstance(detail["input"], Mapping) else f", found {shown(detail['input'])}"
    return f"{key}: {message}{found}{more}"


def hint(schema: type[BaseModel], path: Sequence[str]) -> str:
    """Name a key of this meaning or nearly this name here, else one of this name elsewhere, else the nearest here."""
    known = sorted(_known_keys(schema, path[:-1]))
    near = [name for names in _ALIKE if path[-1] in names for name in names if name in known]
    near = near or difflib.get_close_matches(path[-1], known, 1, cutoff=_SURE)
    near = near or sorted(_places_of(path[-1], schema), key=lambda place: place.split(".")[0] != path[0])[:1]
    near = near or difflib.get_close_matches(path[-1], known, 1, cutoff=0.4)
    return f"; did you mean {near[0]!r}?" if near else f"; known here: {', '.join(known) or 'nothing'}"


def _places_of(key: str, schema: type[BaseModel], section: str = "") -> Iterator[str]:
    """Yield the dotted names of a key in the sections of a schema, without those whose names the user chooses."""
    for name, field in schema.model_fields.items():
        if name == key:
            yield f"{section}{name}"
        if get_origin(field.annotation) is not dict and (inner := section_of(field)) is not None:
            yield from _places_of(key, inner, f"{section}{name}.")


def _known_keys(schema: type[BaseModel], path: Sequence[str]) -> set[str]:
    schemas = [schema]
    for key in path:
        found = []
        for candidate in schemas:
            field = candidate.model_fields.get(key)
            if field is not None:
                found += models_of(field.annotation)
        schemas = found or schemas  # the name of a union's branch is no key
    return {name for candidate in schemas for name in candidate.model_fields}


def models_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the schemas that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, UnionType, Annotated, dict, list, tuple):
        for argument in get_args(annotation):
            yield from models_of(argument)


def section_of(field: FieldInfo | None) -> type[BaseModel] | None:
    """Return the schema of a section, None where a key holds a plain value."""
    return None if field is None else next(models_of(field.annotation), None)
