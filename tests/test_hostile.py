"""Hostile files, small ones that hang, fill memory or raise odd errors, end as one sentence, soon; no score changes."""

import io
import os
import pickle
import struct
import time
import zipfile
import zlib

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

import train_main
from data.images.decode import ImageError, decode_rgb
from data.sources.folder import list_folder
from data.sources.recordio import open_records
from data.tables.landmarks import read_landmarks
from data.tables.scores import read_scores
from evaluation.pairs.readers import read_pairs
from evaluation.protocol.embeddings import read_embeddings
from evaluation.protocol.face_set import FaceSet
from evaluation.protocol.metadata import read_metadata
from model.compact import CompactNet
from model.frozen.onnx_network import OnnxNetwork
from model.weights import load_backbone, read_state_dict
from utils import cli
from utils.config.inference import InferenceBase
from utils.config.loading import read_yaml, validate
from utils.contract import InputContract, load_contract
from utils.errors import UserError
from utils.outside.reading import about, limited_memory, reading, shown

LONGEST_S = 5


def refused(read, path):
    """Return the sentence with which `read` refuses a file."""
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        read(path)
    assert time.monotonic() - started < LONGEST_S
    said = str(caught.value)
    assert str(path.name) in said
    assert len(said.replace(str(path.parent), "")) <= 400
    assert "\n" not in said
    return said


def laughs(levels, start=b")"):
    """Return the pickle of a tuple that holds the one before three times, and so on."""
    return start + b"q\x01" + b"h\x01h\x01h\x01\x87q\x01" * levels


PICKLES = {
    "memo.pkl": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "list.pkl": b"\x80\x02](X\x01\0\0\0a" + laughs(40) + b"\x86e.",
    "value.pkl": b"\x80\x02}X\x01\0\0\0a" + laughs(40) + b"s.",
    "key.pkl": b"\x80\x02}" + laughs(40) + b"K\x01s.",
    "itself.pkl": b"\x80\x02]q\x00h\x00a.",
    "deep.pkl": b"\x80\x02]" + b")" + b"\x85" * 100_000 + b"a.",
    "set.pkl": pickle.dumps({1, 2}, 4),
    "number.pkl": pickle.dumps({"a": 10**4000}, 4),
    "digits.pkl": pickle.dumps({"a": 10**9000}, 4),
    "half.pkl": pickle.dumps({"a": 0.5}, 4)[:-4],
    "surrogate.pkl": b"\x80\x02}X\x03\0\0\0\xed\xa0\x80K\x01s.",
    "method.pkl": b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\0\0\0itemsX\x01\0\0\0xsb.",
    "empty_numbers.pkl": b"\x80\x03cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85X\x01\0\0\0btR"
    b"(K\x01(\x8a\x06\0\0\0\0\0\x01tcnumpy\ndtype\n(X\x02\0\0\0S0K\0K\x01tR\x89C\x00tb.",
}


@pytest.mark.parametrize("name", PICKLES)
@pytest.mark.parametrize("read", [read_scores, read_landmarks])
def test_pickles(tmp_path, name, read):
    (tmp_path / name).write_bytes(PICKLES[name])
    refused(read, tmp_path / name)


def test_what_pickles_share_honestly_is_read(tmp_path):
    score = [0.25]
    (tmp_path / "shared.pkl").write_bytes(pickle.dumps([("a", score), ("b", score)], 2))
    assert read_scores(tmp_path / "shared.pkl").values.tolist() == [0.25, 0.25]


def test_a_large_pickle_that_asks_for_more_than_it_can_be_worth(tmp_path):
    """A file beyond the size that is read with care meets the bound of memory."""
    (tmp_path / "large.pkl").write_bytes(b"\x80\x02" + b"N0" * (3 << 20) + b"Nr\xff\xff\xff\x7f.")
    assert "memory" in refused(read_scores, tmp_path / "large.pkl")


LETTERS = list(zip("abcdefghijklmnopqrs", "bcdefghijklmnopqrst"))
YAMLS = {
    "laughs.yaml": "a: &a {x: 1}\n" + "".join(f"{b}: &{b} {{x: *{a}, y: *{a}}}\n" for a, b in LETTERS),
    "merge.yaml": "a: &a {x: 1}\n" + "".join(f"{b}: &{b} {{<<: [*{a}, *{a}]}}\n" for a, b in LETTERS),
    "itself.yaml": "a: &a [*a]\n",
    "deep.yaml": "a: " + "[" * 5000,
    "tag.yaml": "a: !!int x\n",
    "time.yaml": "a: !!timestamp zz\n",
    "date.yaml": "a: 2001-99-99\n",
    "key.yaml": "? [a]\n: 1\n",
    "hex.yaml": "a: 0x_\n",
    "map.yaml": "a: !!map x\n",
    "python.yaml": "a: !!python/object/apply:os.system [ls]\n",
    "long.yaml": "a: 1\n" * 300_000,
    "latin.yaml": b"a: \xff\n",
}  # fmt: skip


@pytest.mark.parametrize("name", YAMLS)
def test_yaml(tmp_path, name):
    content = YAMLS[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(read_yaml, tmp_path / name)


@pytest.mark.parametrize("value", ['"a\\0b"', '"' + "long/" * 2000 + '"', "[" + "1, " * 1000 + "]", "0x" + "f" * 9000])
def test_a_command_says_one_short_sentence_about_any_setting(tmp_path, capsys, value):
    (tmp_path / "train.yaml").write_text(f"base: {{save_path: {value}, epochs: 1, nothing: {value}}}\n")
    assert cli.run(lambda: train_main.main(["-c", str(tmp_path / "train.yaml")])) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "train.yaml" in said
    assert len(said) <= 401


def test_a_path_with_nul_is_refused_as_a_setting():
    with pytest.raises(UserError, match="save_path: a path holds no NUL"):
        validate(InferenceBase, {"save_path": "a\0b"}, "base")


def test_parquet_that_repeats_one_long_name(tmp_path):
    name = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2_000_000, np.int32)), pa.array(["n" * 1000]))
    pq.write_table(pa.table({"path": name, "quality": np.zeros(2_000_000)}), tmp_path / "bomb.parquet")
    assert (tmp_path / "bomb.parquet").stat().st_size < 1 << 20
    refused(read_scores, tmp_path / "bomb.parquet")


def test_parquet_of_names_that_repeat_stays_readable(tmp_path):
    pq.write_table(pa.table({"path": ["a", "b", "a"], "quality": [0.5, 0.25, 0.5]}), tmp_path / "few.parquet")
    scores = read_scores(tmp_path / "few.parquet")
    assert list(scores.names) == ["a", "b"]
    assert scores.values.tolist() == [0.5, 0.25]


def jpeg(**options):
    stream = io.BytesIO()
    picture = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(picture).resize((64, 64)).save(stream, "JPEG", **options)
    return stream.getvalue()


def scans(data, times):
    """Repeat the last scan of a JPEG."""
    at = data.rindex(b"\xff\xda")
    return data[:at] + data[at:-2] * times + b"\xff\xd9"


def test_a_jpeg_of_thousands_of_scans_is_a_named_failure_and_few_are_none():
    whole = decode_rgb(jpeg(progressive=True))
    assert whole.shape == (64, 64, 3)
    with pytest.raises(ImageError, match="3009 scans of 64x64 pixels take too long"):
        decode_rgb(scans(jpeg(progressive=True), 3000))


def png_header(width, height, bits, colour):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    lines = zlib.compress(b"\0" * (height * (1 + width * 6)), 9)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def test_sixteen_bits_take_little_more_memory_than_eight():
    """3000x3000 pixels of 16 bit: 54 MB decoded, 27 MB of result, and a block of each at a time."""
    with limited_memory(170 << 20):
        image = decode_rgb(png_header(3000, 3000, 16, 2))
    assert image.shape == (3000, 3000, 3)
    assert not image.any()


def test_a_chunk_of_three_gigabytes_takes_none():
    whole = png_header(8, 8, 16, 2)
    at = whole.index(b"IDAT") - 4
    with limited_memory(100 << 20), pytest.raises(ImageError, match="damaged PNG: cut off"):
        decode_rgb(whole[:at] + (0xAF000000).to_bytes(4, "big") + whole[at + 4 :])


def test_sixteen_bits_are_rounded_as_before():
    values = np.arange(0, 65536, 7, dtype=np.uint16)[: 96 * 96].reshape(96, 96)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    expected = np.rint(values / 257).astype(np.uint8)
    assert np.array_equal(decode_rgb(stream.getvalue())[:, :, 0], expected)


def test_run_lengths_and_animations_have_bounds_of_their_own():
    header = b"BM" + struct.pack("<IHHI", 1000, 0, 0, 54 + 1024)
    header += struct.pack("<IiiHHIIiiII", 40, 2_000_000, 20, 1, 8, 1, 0, 0, 0, 256, 0)
    with pytest.raises(ImageError, match="too many for a BMP with run lengths"):
        decode_rgb(header + bytes(1024) + b"\0\0" * 100)
    stream = io.BytesIO()
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    frames[0].save(stream, "WebP", save_all=True, append_images=frames[1:])
    assert decode_rgb(stream.getvalue())[0, 0, 0] > 200
    large = bytearray(stream.getvalue())
    large[24:30] = (5999).to_bytes(3, "little") + (5999).to_bytes(3, "little")
    with pytest.raises(ImageError, match="6000x6000 pixels are too many for an animation"):
        decode_rgb(large)


def test_devices_pipes_and_circles_are_failures_of_their_own(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "d.png").symlink_to("/dev/zero")
    (tmp_path / "e.png").symlink_to("e.png")
    source = list_folder(tmp_path)
    assert len(source.read(0)) == (tmp_path / "a.png").stat().st_size
    for row in range(1, len(source)):
        with pytest.raises(ImageError):
            source.read(row)
    assert {"c.png", "d.png", "e.png"} <= set(source.names)


@pytest.mark.parametrize("stated", [np.nan, np.inf, -np.inf, 1e30, -5, 0, 1])
def test_record_0_that_states_an_odd_number_of_images(tmp_path, stated):
    body = struct.pack("<IfQQ", 2, 0.0, 0, 0) + struct.pack("<ff", stated, stated)
    data = struct.pack("<II", 0xCED7230A, len(body)) + body
    (tmp_path / "train.rec").write_bytes(data * 2)
    (tmp_path / "train.idx").write_text(f"0\t0\n1\t{len(data)}\n")
    refused(open_records, tmp_path / "train.rec")


PAIRS = {
    "head.txt": ("lfw", "² ²\nA 1 2\n"),
    "cell.txt": ("lfw", "A 1 2\nA ² 1\n"),
    "long.txt": ("lfw", "A 1 " + "9" * 5000 + "\n"),
    "list.txt": ("list", "a b 2\n"),
    "fold_0_data.txt": ("adience", "user_id\toriginal_image\tface_id\nu\t?.jpg\t**\nv\tc\t2\n"),
    "images.bin": ("bin", pickle.dumps(([b"", 5], [True]))),
    "flags.bin": ("bin", pickle.dumps((5, 5))),
    "shares.bin": ("bin", b"\x80\x02](" + laughs(30) + b"h\x01e](K\x01e\x86."),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs(tmp_path, name):
    form, content = PAIRS[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    if form == "adience":
        with pytest.raises(UserError, match="no mated pair"):
            read_pairs(tmp_path / name, form, tmp_path)
    else:
        refused(lambda path: read_pairs(path, form), tmp_path / name)


@pytest.mark.parametrize(
    "line",
    [
        "1 ../Data",
        "1 ..//x/y",
        "² a/b/c/d",
        "1 ../a/../b/c.jpg",
        "9" * 5000 + " a/b/c",
        "3 ../Data/Imag",
        "1",
    ],
)
def test_cfp_lists_with_short_paths(tmp_path, line):
    (tmp_path / "Split/FP/01").mkdir(parents=True)
    for name in ("same", "diff"):
        (tmp_path / f"Split/FP/01/{name}.txt").write_text("1,1\n")
    for kind in "FP":
        (tmp_path / f"Pair_list_{kind}.txt").write_text(f"{line}\n")
    with pytest.raises(UserError, match=r"Pair_list_F\.txt, line 1: expected `number path`"):
        read_pairs(tmp_path, "cfp_fp")


METADATA = {
    "empty.csv": b"",
    "short rows.csv": b"path,kind\na\nb\n",
    "long rows.csv": b"path,blur\na,1,2,3\n",
    "another.csv": b"name,blur\na,1\n",
    "latin.csv": b"path,blur\na\xff,1\n",
    "nul.csv": b"path,blur\n" + b"\0" * 200_000 + b",1\n",
    "field.csv": b"path,blur\n" + b"a" * 200_000 + b",1\n",
    "quote.csv": b'path,blur\n"' + b"a\n" * 100_000,
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata(tmp_path, name):
    (tmp_path / "pairs.txt").write_text("a b 1\na c 0\n")
    pairs = read_pairs(tmp_path / "pairs.txt", "list")
    (tmp_path / name).write_bytes(METADATA[name])
    refused(lambda path: read_metadata(path, FaceSet("x", pairs, None), pairs.names), tmp_path / name)


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e999", "9" * 5000, "²", "1_0", ""])
def test_numbers_of_metadata_that_are_none(tmp_path, value):
    """A column with infinite values is no scale of nuisance; one that is no number is left out, whatever it holds."""
    (tmp_path / "pairs.txt").write_text("a b 1\na c 0\n")
    pairs = read_pairs(tmp_path / "pairs.txt", "list")
    (tmp_path / "meta.csv").write_text(f"path,blur,yaw\na,1,1\nb,{value},2\nc,3,4\n")
    found = read_metadata(tmp_path / "meta.csv", FaceSet("x", pairs, None), pairs.names)
    assert found.columns["yaw"].tolist() == [1, 2, 4]
    assert set(found.columns) == {"yaw"} or np.isfinite(found.columns["blur"]).all()


def stored(*arrays):
    """Return the bytes of an .npz of so many (name, bytes) members."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in arrays:
            archive.writestr(name, content)
    return stream.getvalue()


def npy(header, data=b""):
    text = header.encode()
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text + data


NAMES = npy("{'descr': '<U1', 'fortran_order': False, 'shape': (1,)}", "a".encode("utf-32-le"))
ARRAYS = {
    "none.npz": stored(),
    "text.npz": stored(("names", b"abc"), ("embeddings", b"abc")),
    "objects.npz": stored(("names.npy", npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"\x80\x02N."))),
    "huge.npz": stored(("names.npy", NAMES), ("embeddings.npy", npy(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 99999999999)}"))),
    "wide.npz": stored(("names.npy", NAMES), ("embeddings.npy", npy(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3)}", bytes(8)))),
    "below zero.npz": stored(("names.npy", NAMES), ("embeddings.npy", npy(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 2)}", bytes(8)))),
    "header.npz": stored(("names.npy", npy("[" * 5000)), ("embeddings.npy", npy("{}"))),
    "fields.npz": stored(("names.npy", npy(
        "{'descr': [('a', '<U1')], 'fortran_order': False, 'shape': (1,)}", bytes(4)))),
    "short.npz": stored(("names.npy", b"\x93NUM"), ("embeddings.npy", b"")),
    "numbers.npz": stored(("names.npy", NAMES), ("embeddings.npy", NAMES)),
}  # fmt: skip


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(tmp_path, name):
    (tmp_path / name).write_bytes(ARRAYS[name])
    refused(read_embeddings, tmp_path / name)


def test_arrays_that_unpack_to_gigabytes(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("names.npy", NAMES)
        with archive.open("embeddings.npy", "w", force_zip64=True) as stream:
            stream.write(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 300000000)}"))
            for _ in range(72):  # well above what memory that happens to be free can hold
                stream.write(bytes(1 << 24))
    assert "memory" in refused(read_embeddings, tmp_path / "bomb.npz")


def test_npz(tmp_path):
    np.savez(tmp_path / "odd.npz", names=np.array(["ab"]), embeddings=np.ones((1, 2), np.float32))
    data = (tmp_path / "odd.npz").read_bytes()
    wrong = data.replace("ab".encode("utf-32-le"), b"\xff\xff\xff\xff" + "b".encode("utf-32-le"))
    (tmp_path / "odd.npz").write_bytes(wrong)
    refused(read_embeddings, tmp_path / "odd.npz")
    (tmp_path / "raw.npz").write_bytes(b"PK\5\6" + bytes(18))
    refused(read_embeddings, tmp_path / "raw.npz")


def test_checkpoints_that_wrap_themselves(tmp_path):
    content: dict = {}
    content["state_dict"] = content
    torch.save(content, tmp_path / "self.pth")
    refused(read_state_dict, tmp_path / "self.pth")
    torch.save({"n_averaged": torch.zeros(())}, tmp_path / "empty.pth")
    with pytest.raises(UserError, match=r"empty\.pth"):
        load_backbone(CompactNet(), tmp_path / "empty.pth")
    (tmp_path / "deep.safetensors").write_bytes(struct.pack("<Q", 200_000) + b"[" * 200_000)
    refused(read_state_dict, tmp_path / "deep.safetensors")


def network(tmp_path, inputs, outputs, nodes, metadata=b""):
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    path = tmp_path / "network.onnx"
    path.write_bytes(model.SerializeToString() + metadata)
    return path


def image_input(kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info("x", kind, ["b", 3, 112, 112])


def test_onnx(tmp_path):
    def load(path):
        return OnnxNetwork(path.read_bytes(), path, torch.device("cpu"), InputContract())

    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    size = helper.make_tensor("size", TensorProto.INT64, [1], [1 << 30])
    constant = helper.make_node("Constant", [], ["s"], value=size)
    bomb = [constant, helper.make_node("ConstantOfShape", ["s"], ["c"]), helper.make_node("ReduceSum", ["c"], ["y"])]
    assert "fails on an image" in refused(load, network(tmp_path, [image_input()], [out], bomb))
    one = helper.make_tensor("one", TensorProto.FLOAT, [1, 1], [1.0])
    alone = [helper.make_node("Constant", [], ["y"], value=one)]
    refused(load, network(tmp_path, [], [out], alone))
    whole = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
    refused(load, network(tmp_path, [image_input(TensorProto.INT64)], [out], whole))
    odd = b"\x72\x06\x0a\x01\x80\x12\x01\x80"  # metadata_props: key and value that are no UTF-8
    refused(load, network(tmp_path, [image_input()], [out], whole, odd))
    assert onnx.load(network(tmp_path, [image_input()], [out], whole)).graph.node


def test_contract_beside_weights(tmp_path):
    for content in (
        '{"contract": [1]}',
        '{"contract": ' + "[" * 100_000,
        "[]",
        '{"contract": {"size_px": {}, "x": 1}}',
    ):
        (tmp_path / "w.json").write_text(content)
        with pytest.raises(UserError, match=r"w\.json"):
            load_contract(tmp_path / "w.pth")


def test_memory_has_a_bound_and_gets_it_back():
    with pytest.raises(UserError, match="needs more memory"), reading("f"):
        np.ones(1 << 28)
    assert len(np.empty(1 << 28)) == 1 << 28


def test_what_is_shown_is_short_whatever_it_holds():
    shared: list = []
    for _ in range(200):
        shared = [shared, shared]
    circle: list = []
    circle.append(circle)
    objects = np.empty(2, object)
    objects[0] = shared
    values = [shared, circle, 10**9000, "a\n" * 100_000, b"\xff" * 1000, objects, {"a": shared}]
    for value in values:
        assert len(shown(value)) <= 80
        assert "\n" not in shown(value)
    assert shown(b"n01/a.jpg") == shown("n01/a.jpg") == "'n01/a.jpg'"
    assert shown([1, 2.5, "x"]) == "[1, 2.5, 'x']"


def test_a_sentence_has_one_line_and_400_characters_at_most():
    long = UserError("runs/a.csv: " + "b " * 500 + "is no number; mend\nthe row")
    assert len(str(long)) < 400
    assert str(long).startswith("runs/a.csv: b b")
    assert str(long).endswith("is no number; mend the row")
    assert str(UserError("short")) == "short"


def test_an_error_names_the_file_it_is_about():
    with pytest.raises(UserError, match=r"^a\.csv: 'x' may be 'y' or 'z'$"), about("a.csv"):
        raise UserError("'x' may be 'y' or 'z'")
    with pytest.raises(UserError, match=r"^b/a\.csv, line 1: wrong$"), about("b/a.csv"):
        raise UserError("b/a.csv, line 1: wrong")
