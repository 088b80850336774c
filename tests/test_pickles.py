"""utils/pickles.py: what it builds, and what it refuses by name without running it."""

import collections
import functools
import io
import os
import pickle
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy._core import multiarray

from utils.errors import DataError
from utils.pickles import load_restricted_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
PLAIN = {
    "list": [1, -2.5, True, False, None, 10**40, 1 + 2j],
    "text": ("é", b"\x00\xff", b"", bytearray(b"xy"), bytearray()),
    "nested": {("a", 1): [{"b": (1, 2)}]},
}
ARRAYS = {
    "float": np.arange(10.0).reshape(5, 2),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "turned": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "big-endian": np.arange(3, dtype=">i4"),
    "text": np.array(["a", "bcd"]),
    "bytes": np.array([b"a", b"bcd"]),
    "objects": np.array([1, "x", None, [2.5]], dtype=object),
    "empty": np.empty((0, 2), np.float32),
    "zero-dimensional": np.array(3.0),
    "bool": np.array([True, False]),
}


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments, state=None):
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.parts


def load(value, protocol=4, **options):
    return load_restricted_pickle(io.BytesIO(pickle.dumps(value, protocol)), **options)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values_come_back(protocol):
    assert load(PLAIN, protocol) == PLAIN
    ordered = load(collections.OrderedDict(b=1, a=2), protocol)
    assert isinstance(ordered, dict) and list(ordered.items()) == [("b", 1), ("a", 2)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_come_back(protocol, name):
    array, dumped = ARRAYS[name], pickle.dumps({"x": ARRAYS[name]}, protocol)
    for data in (dumped, dumped.replace(b"numpy._core", b"numpy.core") if protocol < 2 else dumped):
        back = load_restricted_pickle(io.BytesIO(data))["x"]
        assert isinstance(back, np.ndarray) and back.shape == array.shape
        assert back.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
        assert back.tolist() == array.tolist()
        assert back.size == 0 or back.flags.writeable


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("scalar", [np.float32(0.1), np.int64(-3), np.bool_(True), np.str_("héy"), np.complex64(1j)])
def test_numpy_scalars_come_back(protocol, scalar):
    back = load([scalar], protocol)[0]
    assert back == scalar and type(back) is type(scalar)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_dtypes_come_back(protocol):
    assert load(np.dtype(">f8"), protocol) == np.dtype(">f8")
    assert load({"d": np.dtype("f4")}, protocol)["d"] == np.dtype("f4")


def test_numpy_1_module_names_are_known():
    dumped = pickle.dumps({"a": np.float32(0.25), "b": np.arange(4.0)}, 2)
    written_by_numpy_1 = dumped.replace(b"numpy._core", b"numpy.core")
    back = load_restricted_pickle(io.BytesIO(written_by_numpy_1))
    assert back["a"] == np.float32(0.25) and back["b"].tolist() == [0, 1, 2, 3]


def test_python_2_pickle_with_bytes():
    # protocol 2, str as SHORT_BINSTRING, as Python 2 writes {"a.jpg": 0.5, "\xe9": u"\u00e9"}
    data = b"\x80\x02}(U\x05a.jpgG?\xe0\x00\x00\x00\x00\x00\x00U\x01\xe9X\x02\x00\x00\x00\xc3\xa9u."
    assert load_restricted_pickle(io.BytesIO(data), encoding="bytes") == {b"a.jpg": 0.5, b"\xe9": "é"}
    with pytest.raises(DataError, match="not a readable pickle"):
        load_restricted_pickle(io.BytesIO(data))


def test_python_2_array_with_bytes():
    # protocol 0 text of numpy.array([1, 2], "<f4") as Python 2 writes it
    data = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\ntcnumpy\ndtype\n"
        b"(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x00\\x00\\x80?\\x00\\x00\\x00@'\ntb."
    )
    back = load_restricted_pickle(io.BytesIO(data), encoding="bytes")
    assert back.dtype == np.float32 and back.tolist() == [1.0, 2.0]


HOSTILE = {
    "os.system": lambda target: Call(os.system, f"touch {target}"),
    "builtins.eval": lambda target: Call(eval, f"open({target!r}, 'w')"),
    "builtins.exec": lambda target: Call(exec, f"open({target!r}, 'w')"),
    "io.open": lambda target: Call(open, target, "w"),
    "builtins.getattr": lambda target: Call(getattr, "text", "upper"),
    "shutil.copy": lambda target: Call(shutil.copy, "/dev/null", target),
    "numpy.load": lambda target: Call(np.load, target),
    "numpy.fromfile": lambda target: Call(np.fromfile, target),
    "numpy.memmap": lambda target: Call(np.memmap, target),
    "functools.partial": lambda target: functools.partial(os.system, f"touch {target}"),
    "pathlib": lambda target: Path(target),
    "fractions.Fraction": lambda target: Fraction(1, 3),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", HOSTILE)
def test_everything_else_is_refused_by_name(name, protocol, tmp_path):
    path = tmp_path / "labels.pkl"
    hostile = HOSTILE[name](str(tmp_path / "ran"))
    for value in (hostile, [{"a": (hostile,)}], Call(collections.OrderedDict, [("k", hostile)])):
        path.write_bytes(pickle.dumps(value, protocol))
        with pytest.raises(DataError) as caught:
            load_restricted_pickle(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: refused to build '{name}") and "\n" not in message
    assert list(tmp_path.iterdir()) == [path]


def test_a_call_hidden_in_the_state_of_an_array_is_refused():
    state = (1, (1,), np.dtype("O"), False, [Call(os.system, "true")])
    with pytest.raises(DataError, match=r"refused to build 'os\.system'"):
        load(Call(multiarray._reconstruct, np.ndarray, (0,), b"b", state=state))


def reconstruct(state, kind=np.ndarray):
    return Call(multiarray._reconstruct, kind, (0,), b"b", state=state)


@pytest.mark.parametrize(
    "value",
    [
        reconstruct((1, (1000,), np.dtype("O"), False, [1])),  # numpy would read past the end of the list
        reconstruct((1, (1,), np.dtype("O"), False, b"\x01" * 8)),  # eight bytes as a pointer
        reconstruct((1, (1,), np.dtype([("a", "O")]), False, b"\x01" * 8)),
        reconstruct((1, (0,), np.dtype("M8[s]"), False, b"")),
        reconstruct((1, (1,), np.dtype("f8"), False, b"\0" * 8), np.matrix),
        Call(multiarray.scalar, np.dtype("O"), b"\x01" * 8),
        Call(np.dtype, "V8"),
        Call(np.ndarray, (3,)),
        np.zeros(2, dtype=[("a", "i4"), ("b", "f8")]),
        Call(bytes, 10**12),
    ],
    ids=range(10),
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_crafted_arrays_and_dtypes_are_refused(value, protocol):
    with pytest.raises(DataError) as caught:
        load(value, protocol)
    assert "\n" not in str(caught.value)


def test_one_pickle_cannot_change_the_next():
    before = load(b"abc", 2)
    attack = b"\x80\x02c_codecs\nencode\nN}X\x0c\x00\x00\x00__defaults__)s\x86b."  # BUILD with slot state
    load_restricted_pickle(io.BytesIO(attack))
    assert load(b"abc", 2) == before == b"abc"


def test_references_outside_the_file_are_refused():
    with pytest.raises(DataError, match=r"a persistent reference, as torch\.save writes"):
        load_restricted_pickle(io.BytesIO(b"Pabc\n."))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_file_cut_short_anywhere_is_one_sentence(protocol, tmp_path):
    data = pickle.dumps({"a": np.arange(3.0), "b": [1, "x"]}, protocol)
    path = tmp_path / "cut.pkl"
    for stop in range(len(data)):
        path.write_bytes(data[:stop])
        with pytest.raises(DataError) as caught:
            load_restricted_pickle(path)
        assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_garbage_never_raises_anything_but_data_error(data):
    try:
        load_restricted_pickle(io.BytesIO(data), encoding="bytes")
    except DataError as error:
        assert "\n" not in str(error)


@settings(deadline=None)
@given(st.data())
def test_damaged_pickles_never_raise_anything_but_data_error(data):
    protocol = data.draw(st.sampled_from([0, 2, 4, 5]))
    dumped = bytearray(pickle.dumps({"a": np.arange(3.0), "b": [np.float32(1), "x"]}, protocol))
    for _ in range(data.draw(st.integers(1, 3))):
        dumped[data.draw(st.integers(0, len(dumped) - 1))] = data.draw(st.integers(0, 255))
    try:
        load_restricted_pickle(io.BytesIO(bytes(dumped)), encoding="bytes")
    except DataError as error:
        assert "\n" not in str(error)


def test_a_missing_file_is_a_sentence(tmp_path):
    with pytest.raises(DataError, match=r"none\.pkl: cannot be read \(No such file or directory\)"):
        load_restricted_pickle(tmp_path / "none.pkl")
