"""Pickles from outside: only plain containers, text, numbers and numpy arrays are ever built."""

import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from utils.errors import DataError

_WAY_OUT = "only dict, list, tuple, str, bytes, numbers and numpy arrays are read, so save it again from those"
_PLAIN_KINDS = "biufcSU"
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
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); name an existing pickle file") from error


def _load(stream: IO[bytes], name: str, encoding: str) -> Any:
    try:
        value = _Unpickler(stream, encoding=encoding, errors="strict").load()
    except _Refusal as refusal:
        raise DataError(f"{name}: refused to build {str(refusal)!r} from a pickle; {_WAY_OUT}") from None
    except Exception as error:  # a damaged pickle raises nearly any type
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise DataError(f"{name}: not a readable pickle ({reason}); cut short, damaged or another format") from None
    return value.dtype if isinstance(value, _DtypeSpec) else value


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return the safe stand-in for a global, or refuse it by name."""
        module = _ALIASES.get(module, module)
        if (found := _BUILDERS.get((module, name))) is None:
            raise _Refusal(f"{module}.{name}")
        if isinstance(found, _NdarrayName):
            return found
        return lambda *arguments: found(*arguments)  # a fresh one: a pickle can set attributes of what it is given

    def persistent_load(self, pid: Any) -> Any:
        """Refuse references to objects outside the file."""
        raise _Refusal("a persistent reference")


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


def _complex(real: float = 0.0, imag: float = 0.0) -> complex:
    return complex(real, imag)


_NDARRAY = _NdarrayName()
_BUILDERS: dict[tuple[str, str], Callable | _NdarrayName] = {
    ("collections", "OrderedDict"): OrderedDict,
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
