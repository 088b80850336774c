"""Pickles from outside: only plain containers, text, numbers and numpy arrays are ever built."""

import io
import math
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, ClassVar, Literal

import numpy as np

from utils.errors import DataError
from utils.outside.reading import reading

_WAY_OUT = "only dict, list, tuple, str, bytes, numbers and numpy arrays are read, so save it again from those"
_PLAIN_KINDS = "biufcSU"
_SMALL_BYTES = 1 << 22
_KEYS = (str, bytes, int, float, complex, np.generic, type(None))
_ALIASES = {"posix": "os", "nt": "os", "__builtin__": "builtins", "copy_reg": "copyreg"}


class _Refusal(Exception):
    """Carry the name of what a pickle wanted built."""


def load_restricted_pickle(path: str | Path | IO[bytes], encoding: Literal["ASCII", "bytes"] = "ASCII") -> Any:
    """Load a pickle without running anything it names.

    Builds dict, list and tuple of str, bytes, bytearray, numbers, bool and None, and
    numpy arrays, scalars and dtypes written by numpy 1 or 2; an OrderedDict becomes a dict subclass.
    `encoding="bytes"` reads the str of Python 2 as bytes. Anything else, and a damaged file, is a DataError.
    """
    if not isinstance(path, str | Path):
        return _load(path, str(getattr(path, "name", "pickle")), encoding)
    try:
        with open(path, "rb") as stream:
            return _load(stream, str(path), encoding)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({why}); name an existing pickle file") from error


def _load(stream: IO[bytes], name: str, encoding: str) -> Any:
    with reading(name, "not a readable pickle", "cut short, damaged or another format"):
        try:
            value = _loaded(stream, encoding)
        except _Refusal as refusal:
            raise DataError(f"{name}: refused to build {str(refusal)!r} from a pickle; {_WAY_OUT}") from None
    return value.dtype if isinstance(value, _DtypeSpec) else value


def _loaded(stream: IO[bytes], encoding: str) -> Any:
    """Load a small file with care, a larger one fast: what hostile files share grows by powers, not by their size."""
    head = stream.read(_SMALL_BYTES + 1)
    if len(head) > _SMALL_BYTES:
        stream.seek(-len(head), os.SEEK_CUR)
        return _Unpickler(stream, encoding=encoding, errors="strict").load()
    careful: Any = _CarefulUnpickler
    value = careful(io.BytesIO(head), encoding=encoding, errors="strict").load()
    require_bounded(value)
    return value


class _Restricted:
    """Build stand-ins for what a pickle names."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the safe stand-in for a global, or refuse it by name."""
        module = _ALIASES.get(module, module)
        if (found := _BUILDERS.get((module, name))) is None:
            raise _Refusal(f"{module}.{name}"[:200])
        if isinstance(found, _NdarrayName):
            return found
        return lambda *arguments: found(*arguments)  # a fresh one: a pickle can set attributes of what it is given

    def persistent_load(self, pid: Any) -> Any:
        """Refuse references to objects outside the file."""
        raise _Refusal("a persistent reference, as torch.save writes for tensors and arrays")


class _Unpickler(_Restricted, pickle.Unpickler):
    """Unpickle in C."""


_PythonUnpickler: Any = pickle._Unpickler  # pyright: ignore[reportAttributeAccessIssue]  the one written in Python


class _CarefulUnpickler(_Restricted, _PythonUnpickler):
    """Unpickle in Python: the number of a remembered object takes no memory, and no key is hashed for ever."""

    dispatch: ClassVar[dict] = dict(_PythonUnpickler.dispatch)

    def _load_item(self) -> None:
        _require_plain_keys(self.stack[-2:-1])
        self.load_setitem()

    def _load_items(self) -> None:
        _require_plain_keys(self.stack[::2])
        self.load_setitems()

    def _load_dict(self) -> None:
        _require_plain_keys(self.stack[::2])
        self.load_dict()

    def _load_set(self) -> None:
        raise _Refusal("builtins.set")

    dispatch[pickle.SETITEM[0]] = _load_item
    dispatch[pickle.SETITEMS[0]] = _load_items
    dispatch[pickle.DICT[0]] = _load_dict
    dispatch.update(dict.fromkeys((pickle.EMPTY_SET[0], pickle.ADDITEMS[0], pickle.FROZENSET[0]), _load_set))


def _require_plain_keys(keys: list) -> None:
    for key in keys:
        parts = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(part, _KEYS) for part in parts):
            raise _Refusal(f"a dict with a key of type {type(key).__name__}")


def require_bounded(value: Any, limit: int = 20_000_000) -> None:
    """Raise ValueError where containers hold themselves, or one another so often that written out they are endless."""
    counts: dict[int, int] = {}
    pending: list[tuple[Any, bool]] = [(value, False)]
    while pending:
        one, counted = pending.pop()
        parts = _parts(one)
        if parts is None or (not counted and counts.get(id(one), 0) > 0):
            continue
        if not counted:
            if id(one) in counts:
                raise ValueError("a value holds itself")
            counts[id(one)] = 0
            pending.append((one, True))
            pending += [(part, False) for part in parts]
            continue
        counts[id(one)] = total = 1 + sum(counts.get(id(part), 1) for part in parts)
        if total > limit:
            raise ValueError("its parts hold one another too often")


def _parts(value: Any) -> list | None:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, np.ndarray) and value.dtype.kind == "O":
        return list(value.flat)
    return None


class _DtypeSpec:
    """Stand in for numpy.dtype: holds a name and a byte order, takes no state that could hide objects."""

    def __init__(self, name: Any, align: Any = False, copy: Any = True):
        name = name.decode("ascii") if isinstance(name, bytes) else name
        if not isinstance(name, str):
            raise _Refusal("numpy.dtype of another form")
        self.dtype = np.dtype(name)
        if self.dtype.kind not in _PLAIN_KINDS + "O" or self.dtype.fields or self.dtype.subdtype:
            raise _Refusal(f"numpy.dtype({name!r})")

    def __setstate__(self, state: tuple) -> None:
        order, subdtype, names, fields = state[1:5]
        if subdtype is not None or names or fields:
            raise _Refusal("numpy.dtype with fields")
        order = order.decode("ascii") if isinstance(order, bytes) else order
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)

    def __eq__(self, other: object) -> bool:
        return self.dtype == (other.dtype if isinstance(other, _DtypeSpec) else other)

    def __hash__(self) -> int:
        return hash(self.dtype)


class _Array(np.ndarray):
    """An array whose pickled state is checked before numpy sees it."""

    def __setstate__(self, state: tuple) -> None:
        version, shape, dtype, fortran, data = state if len(state) == 5 else (1, *state)
        if not isinstance(dtype, _DtypeSpec):
            raise _Refusal("numpy.ndarray without a dtype")
        if dtype.dtype.itemsize == 0 and math.prod(shape) > 1:
            raise ValueError("an array of numbers without bytes")
        if dtype.dtype.kind == "O" and not (isinstance(data, list) and len(data) == math.prod(shape)):
            raise _Refusal("numpy.ndarray of objects from raw memory")  # numpy itself would read past a short list
        if isinstance(data, str):  # Python 2 bytes read with encoding latin-1
            data = data.encode("latin-1")
        super().__setstate__((version, shape, dtype.dtype, fortran, data))


class _NdarrayName:
    """Stand in for the class numpy.ndarray where a pickle only passes it along."""

    __slots__ = ()


def _reconstruct(kind: Any, shape: Any, code: Any) -> np.ndarray:
    if kind is not _NDARRAY:
        raise _Refusal("a subclass of numpy.ndarray")
    return np.empty(0, np.int8).view(_Array)


def _frombuffer(buffer: Any, dtype: Any, shape: Any, order: Any, axis_order: Any = None) -> np.ndarray:
    if not isinstance(dtype, _DtypeSpec) or dtype.dtype.kind not in _PLAIN_KINDS:
        raise _Refusal("numpy.ndarray of objects from raw memory")
    flat = np.frombuffer(buffer, dtype.dtype).copy()
    if order == "K" and axis_order is not None:
        return flat.reshape(shape, order="C").transpose(axis_order)
    return flat.reshape(shape, order=order)


def _scalar(dtype: Any, data: Any = b"") -> Any:
    if not isinstance(dtype, _DtypeSpec) or dtype.dtype.kind not in _PLAIN_KINDS:
        raise _Refusal("numpy scalar of another kind")
    data = data.encode("latin-1") if isinstance(data, str) else data
    if dtype.dtype.itemsize == 0:
        return dtype.dtype.type()
    if len(data) != dtype.dtype.itemsize:
        raise ValueError(f"a numpy scalar of {dtype.dtype.itemsize} bytes has {len(data)}")
    return np.frombuffer(data, dtype.dtype)[0]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _Refusal("codecs.encode with another codec")
    return text.encode("latin-1")


def _bytes(*values: Any) -> bytes:
    if values and not isinstance(values[0], bytes | bytearray | list | tuple):
        raise _Refusal("builtins.bytes of another form")
    return bytes(*values[:1])


def _bytearray(*values: Any) -> bytearray:
    if len(values) == 2:
        return bytearray(_encode(*values))
    return bytearray(_bytes(*values))


class _OrderedDict(OrderedDict):
    """An OrderedDict whose methods stay what they are."""

    def __setstate__(self, state: Any) -> None:
        raise _Refusal("collections.OrderedDict with attributes")


def _ordered_dict(items: Any = ()) -> _OrderedDict:
    pairs: list[Any] = list(items) if isinstance(items, list | tuple) else [None]
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise _Refusal("collections.OrderedDict of another form")
    _require_plain_keys([pair[0] for pair in pairs])
    return _OrderedDict(pairs)


def _complex(real: float = 0.0, imag: float = 0.0) -> complex:
    return complex(real, imag)


_NDARRAY = _NdarrayName()
_BUILDERS: dict[tuple[str, str], Callable | _NdarrayName] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("_codecs", "encode"): _encode,
    ("builtins", "bytes"): _bytes,
    ("builtins", "bytearray"): _bytearray,
    ("builtins", "complex"): _complex,
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _DtypeSpec,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
}
