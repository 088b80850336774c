"""Embeddings: files, the cosine, and networks run in the stated channel order, mirrored or not, torch or ONNX."""

import pickle

import numpy as np
import pytest
import torch

from data.tables.names import Names
from evaluation.protocol import embeddings as module
from evaluation.protocol.embeddings import Recogniser, cosines, read_embeddings, unit_rows, write_embeddings
from model.compact import CompactNet
from model.frozen.load import NetworkLoader
from model.registry import NetworkBuilder
from tests.helpers.tiny_networks import Convolutional
from utils.allowed import AllowedModules
from utils.config.evaluate import RecogniserConfig
from utils.errors import ConfigError, DataError, WeightsError
from utils.files import sha256_file

LOADER = NetworkLoader(NetworkBuilder(), torch.device("cpu"))
TINY = {"num_features": 8, "width": 4}


@pytest.fixture
def crops():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 112, 112, 3), dtype=np.uint8))


def network_input(crops):
    return (crops.numpy().astype(np.float64).transpose(0, 3, 1, 2) / 255 - 0.5) / 0.5


def test_npz_round_trip(tmp_path):
    values = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    write_embeddings(tmp_path / "e.npz", ["a/ü.jpg", "b, c.jpg", "d.jpg"], values)
    read = read_embeddings(tmp_path / "e.npz")
    assert list(read.names) == ["a/ü.jpg", "b, c.jpg", "d.jpg"]
    np.testing.assert_array_equal(read.values, values)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"names": np.array(["a"])}, "no array 'embeddings'"),
        ({"names": np.array(["a"], dtype=object), "embeddings": np.ones((1, 2))}, "save names as text, not objects"),
        ({"names": np.array(["a", "b"]), "embeddings": np.ones((1, 2))}, "2 names but 1 embeddings"),
        ({"names": np.array([1]), "embeddings": np.ones((1, 2))}, "names \\(N,\\) of text"),
        ({"names": np.array(["a"]), "embeddings": np.ones(1)}, "embeddings \\(N, D\\)"),
    ],
)
def test_unusable_npz(tmp_path, arrays, message):
    np.savez(tmp_path / "e.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read_embeddings(tmp_path / "e.npz")


NAMES = ["a/ü.jpg", "b.jpg"]
VALUES = np.array([[0.5, -1, 2], [3, 0.25, 1e-3]], np.float32)
LINES = "".join(f"{name} {' '.join(map(str, row))} \n" for name, row in zip(NAMES, VALUES.tolist(), strict=True))


def holds(path, names=tuple(NAMES)):
    found = read_embeddings(path)
    assert list(found.names) == list(names) and found.values.dtype == np.float32
    np.testing.assert_array_equal(found.values, VALUES)


def test_npy_with_the_list_beside_it(tmp_path):
    np.save(tmp_path / "e.npy", VALUES.astype(np.float64))
    with pytest.raises(DataError, match=r"an array holds no names; put a list .* beside it as e\.txt"):
        read_embeddings(tmp_path / "e.npy")
    (tmp_path / "e.list").write_text("\n".join(NAMES) + "\n", encoding="utf-8")
    holds(tmp_path / "e.npy")


def test_a_folder_of_npy(tmp_path):
    for name, row, shape in zip(NAMES, VALUES, ((3,), (1, 3)), strict=True):
        path = (tmp_path / name).with_suffix(".npy")
        path.parent.mkdir(exist_ok=True)
        np.save(path, row.reshape(shape))
    holds(tmp_path, ["a/ü", "b"])
    np.save(tmp_path / "c.npy", VALUES[0, :2])
    with pytest.raises(DataError, match="'c' has 2 numbers, the first embedding 3"):
        read_embeddings(tmp_path)


def test_the_feat_list_of_magface_and_a_pickled_dict(tmp_path):
    (tmp_path / "feat.list").write_text(LINES, encoding="utf-8")
    (tmp_path / "e.pkl").write_bytes(pickle.dumps(dict(zip(NAMES, VALUES, strict=True))))
    np.save(tmp_path / "d.npy", dict(zip(NAMES, VALUES, strict=True)), allow_pickle=True)
    for name in ("feat.list", "e.pkl", "d.npy"):
        holds(tmp_path / name)


def test_an_image_may_stand_twice_with_one_embedding(tmp_path):
    names, values = np.array([*NAMES, NAMES[0]]), np.concatenate([VALUES, VALUES[:1]])
    np.savez(tmp_path / "e.npz", names=names, embeddings=values)
    holds(tmp_path / "e.npz")
    np.savez(tmp_path / "e.npz", names=names, embeddings=values + np.array([[0], [0], [1]]))
    with pytest.raises(DataError, match=r"e\.npz, embedding 2: 'a/ü.jpg' has 1.5 0 3 but 0.5 -1 2 before"):
        read_embeddings(tmp_path / "e.npz")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("feat.list", "a b.jpg 0.5 0.5\n", "line 1: .* is no name followed by numbers"),
        ("feat.list", "a.jpg 0.5 0.5\nb.jpg 1\n", "'b.jpg' has 1 numbers, the first embedding 2"),
        ("feat.list", "a.jpg 0.5\nb.jpg 1\n", "is it a list of scores"),
        ("feat.list", "a.jpg\n", "'a.jpg' has no embedding"),
        ("feat.list", "\n", "holds no embeddings"),
        ("e.pkl", pickle.dumps([1, 2]), "expected a dict of name"),
        ("e.pkl", pickle.dumps({"a.jpg": "text"}), "'a.jpg' has no embedding but 'text'"),
        ("e.hdf5", b"\x89HDF\r\n\x1a\n\0\0", "HDF5"),
    ],
)
def test_what_is_no_form_of_embeddings_is_refused(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError, match=said) as caught:
        read_embeddings(path)
    assert str(caught.value).startswith(str(path)) and len(str(caught.value).replace(str(tmp_path), "")) < 400


def test_damaged_npz(tmp_path):
    (tmp_path / "e.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(DataError, match=r"e\.npz: not a readable"):
        read_embeddings(tmp_path / "e.npz")


def test_cosines_in_chunks(monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 7)
    rng = np.random.default_rng(2)
    values = rng.normal(size=(20, 16)).astype(np.float32) * 10
    first, second = rng.integers(20, size=(2, 50))
    names = Names.from_strings(map(str, range(20)))
    got = cosines(unit_rows(values, names, np.arange(20)), first, second)
    a, b = values[first].astype(np.float64), values[second].astype(np.float64)
    want = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert got.dtype == np.float64


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_an_embedding_without_direction_is_named_if_it_is_used(bad):
    values = np.ones((3, 2), dtype=np.float32)
    values[1] = bad
    names = Names.from_strings(["a.jpg", "b.jpg", "c.jpg"])
    with pytest.raises(DataError, match=r"'b\.jpg'"):
        unit_rows(values, names, np.array([0, 1]))
    np.testing.assert_allclose(unit_rows(values, names, np.array([0, 2]))[[0, 2]], 0.5**0.5, atol=1e-7)


def backbone(tmp_path):
    torch.manual_seed(3)
    net = CompactNet(**TINY).eval()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    return net


def recogniser(cfg, loader=LOADER):
    """A recognition model with its network loaded."""
    model = Recogniser(cfg)
    model.load(loader)
    return model


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
@pytest.mark.parametrize("flip", [0, 1])
def test_torch_backbone(tmp_path, crops, channels, flip):
    net = backbone(tmp_path)
    cfg = RecogniserConfig(
        module="model.compact.CompactNet", params=TINY, weights=str(tmp_path / "net.pth"), channels=channels, flip=flip
    )
    x = network_input(crops)[:, :: 1 if channels == "RGB" else -1]
    with torch.no_grad():
        want = net(torch.from_numpy(x.copy()).float()).numpy()
        if flip:
            want = want + net(torch.from_numpy(x[..., ::-1].copy()).float()).numpy()
    got = recogniser(cfg)(crops, [""] * 5)
    assert got.shape == (5, 8)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_of_several_outputs_the_first_is_the_embedding(tmp_path, crops):
    torch.manual_seed(0)
    net = Convolutional()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    cfg = RecogniserConfig(module="tests.helpers.tiny_networks.Convolutional", weights=str(tmp_path / "net.pth"))
    with torch.no_grad():
        want = net(torch.from_numpy(network_input(crops)).float())[0].numpy()
    allowing = NetworkLoader(NetworkBuilder(AllowedModules(("tests",))), torch.device("cpu"))
    np.testing.assert_allclose(recogniser(cfg, allowing)(crops, []), want, atol=1e-5)
    with pytest.raises(ConfigError, match="--allow-module tests"):
        recogniser(cfg)


def test_fingerprint_tells_what_changes_the_numbers(tmp_path):
    backbone(tmp_path)
    cfg = RecogniserConfig(module="model.compact.CompactNet", params=TINY, weights=str(tmp_path / "net.pth"))
    prints = [recogniser(c).fingerprint for c in (cfg, cfg.model_copy(update={"flip": True}))]
    torch.manual_seed(4)
    torch.save(CompactNet(**TINY).state_dict(), tmp_path / "net.pth")
    prints.append(recogniser(cfg).fingerprint)
    assert prints[0] != prints[1] and prints[0] != prints[2]


def test_a_fingerprint_names_the_weights_that_were_read(tmp_path):
    backbone(tmp_path)
    cfg = RecogniserConfig(module="model.compact.CompactNet", params=TINY, weights=str(tmp_path / "net.pth"))
    model = Recogniser(cfg)
    torch.manual_seed(4)
    torch.save(CompactNet(**TINY).state_dict(), tmp_path / "net.pth")  # as a training does that goes on
    model.load(LOADER)
    assert model.fingerprint["weights"] == sha256_file(tmp_path / "net.pth")


def write_onnx(path, batch, size=112):
    """Write a network that averages each channel over the image and scales it by 1, 2, 3."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Mul", ["flat", "scale"], ["embedding"]),
    ]
    scale = onnx.numpy_helper.from_array(np.array([1, 2, 3], dtype=np.float32), "scale")
    entry = helper.make_tensor_value_info("x", kind, [batch, 3, size, size])
    graph = helper.make_graph(
        nodes, "g", [entry], [helper.make_tensor_value_info("embedding", kind, [batch, 3])], [scale]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))


@pytest.mark.parametrize("batch", ["N", 1, 2])
@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_onnx(tmp_path, crops, batch, channels):
    pytest.importorskip("onnxruntime")
    write_onnx(tmp_path / "net.onnx", batch)
    cfg = RecogniserConfig(weights=str(tmp_path / "net.onnx"), channels=channels)
    x = network_input(crops)[:, :: 1 if channels == "RGB" else -1]
    np.testing.assert_allclose(recogniser(cfg)(crops, []), x.mean(axis=(2, 3)) * [1, 2, 3], atol=1e-5)


def test_onnx_of_another_kind_is_refused(tmp_path):
    pytest.importorskip("onnxruntime")
    write_onnx(tmp_path / "net.onnx", "N", size=96)
    with pytest.raises(WeightsError, match="expected \\(B, 3, 112, 112\\)"):
        recogniser(RecogniserConfig(weights=str(tmp_path / "net.onnx")))
    (tmp_path / "bad.onnx").write_bytes(b"no")
    with pytest.raises(WeightsError, match="not a readable ONNX"):
        recogniser(RecogniserConfig(weights=str(tmp_path / "bad.onnx")))
