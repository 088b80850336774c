"""Hostile arrays, checkpoints and ONNX networks end as one sentence, soon."""

import io
import struct
import zipfile

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from evaluation.protocol.embeddings import read_embeddings
from model.compact import CompactNet
from model.frozen.onnx_network import OnnxNetwork
from model.weights import load_backbone, read_state_dict
from tests.helpers.hostile import refused
from utils.contract import InputContract, load_contract
from utils.errors import UserError


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
