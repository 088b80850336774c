"""Networks of a user's own: the output that is named, one half of a file, and any ONNX by a stated contract."""

import numpy as np
import pytest
import torch
from torch import nn

from model.frozen.describe import Described
from model.frozen.load import NetworkLoader
from model.registry import NetworkBuilder
from tests.helpers.frozen import CROPS, network, network_input
from utils.config.sections import ModelConfig, NetworkConfig, NetworkKeys
from utils.contract import InputContract
from utils.errors import ConfigError, WeightsError

# ---- networks of several outputs


class Several(nn.Module):
    """A user's network; TransFace returns a tuple, SwinFace a dict."""

    def __init__(self, kind: str = "dict"):
        super().__init__()
        self.kind, self.fc = kind, nn.Linear(3, 4)

    def forward(self, x):
        means = x.mean((2, 3))
        outputs = {"Age": means[:, :1], "Recognition": self.fc(means)}
        return outputs if self.kind == "dict" else tuple(outputs.values())


class Single(Several):
    """A user's network with one output."""

    def forward(self, x):
        return super().forward(x)["Recognition"]


@pytest.mark.parametrize(("kind", "output"), [("dict", "Recognition"), ("tuple", 1)])
def test_a_network_of_several_outputs_answers_with_the_named_one(tmp_path, kind, output):
    whole = Several(kind)
    torch.save({"model": whole.state_dict()}, tmp_path / "net.pth")
    features = NetworkConfig(module="tests.test_own_networks.Several", params={"kind": kind}, weights=None)
    keys = {"output": output, "allowed": ["tests"], "model": ModelConfig(features=features)}
    found = network(tmp_path / "net.pth", scores=False, **keys)
    wanted = whole.fc(network_input().mean((2, 3))).detach().numpy()
    np.testing.assert_allclose(found.embeddings(CROPS), wanted, atol=1e-5)


class TransFaceLike(nn.Module):
    """The outputs of TransFace: embedding, weights of the patches, their deviations."""

    def __init__(self):
        super().__init__()
        self.feature = nn.Linear(3, 4)

    def forward(self, x):
        means = x.mean((2, 3))
        return self.feature(means), means.softmax(1), means.std(1)


class SwinBackboneLike(nn.Module):
    """The outputs of SwinFace's backbone: local and global features, embedding."""

    def __init__(self):
        super().__init__()
        self.norm = nn.Linear(3, 4)

    def forward(self, x):
        return x[:, :, ::8, ::8], x[:, :, ::16, ::16], self.norm(x.mean((2, 3)))


class SwinFaceLike(nn.Module):
    """The modules of SwinFace; 43 answers in a dict, the last the embedding."""

    def __init__(self):
        super().__init__()
        self.backbone, self.fam, self.tss, self.om = (
            SwinBackboneLike(),
            nn.Linear(3, 3),
            nn.Linear(3, 3),
            nn.Linear(3, 1),
        )

    def forward(self, x):
        local, _, embedding = self.backbone(x)
        return {"Age": self.om(self.tss(self.fam(local.mean((2, 3))))), "Recognition": embedding}


def foreign(name):
    return ModelConfig(features=NetworkConfig(module=f"tests.test_own_networks.{name}", weights=None))


def test_a_users_own_transface_embeds_by_the_first_of_its_outputs(tmp_path):
    torch.manual_seed(3)
    torch.save((whole := TransFaceLike()).state_dict(), tmp_path / "model.pt")
    found = network(tmp_path / "model.pt", False, ["tests"], foreign("TransFaceLike"))
    wanted = whole(network_input())[0].detach().numpy()
    np.testing.assert_allclose(found.embeddings(CROPS), wanted, atol=1e-5)


@pytest.mark.parametrize(("module", "keys"), [
    ("SwinFaceLike", {"output": "Recognition"}),
    ("SwinBackboneLike", {"output": 2}),
    ("SwinBackboneLike", {"output": 2, "part": "state_dict_backbone"}),
])  # fmt: skip
def test_a_users_own_swinface_loads_whole_or_its_backbone_alone_from_its_file_of_four_parts(tmp_path, module, keys):
    torch.manual_seed(3)
    whole = SwinFaceLike()
    parts = {f"state_dict_{name}": part.state_dict() for name, part in whole.named_children()}
    torch.save({"epoch": 7, **parts, "state_optimizer": {"state": {}}}, tmp_path / "checkpoint.pt")
    found = network(tmp_path / "checkpoint.pt", False, ["tests"], foreign(module), **keys)
    wanted = whole(network_input())["Recognition"].detach().numpy()
    np.testing.assert_allclose(found.embeddings(CROPS), wanted, atol=1e-5)


def test_the_log_says_once_which_half_of_a_file_was_taken(tmp_path, caplog):
    halves = {name: Several().state_dict() for name in ("model", "ema")}
    torch.save(halves, tmp_path / "net.pth")
    with caplog.at_level("INFO"):
        found = network(tmp_path / "net.pth", False, ["tests"], foreign("Several"), output="Recognition")
    assert caplog.text.count("took 'ema', the other by part: model") == 1
    assert torch.equal(found.module.fc.weight, halves["ema"]["fc.weight"])


def test_an_output_that_is_not_there_is_named(tmp_path):
    torch.save(Several().state_dict(), tmp_path / "net.pth")
    features = NetworkConfig(module="tests.test_own_networks.Several", weights=None)
    for output, words in (("Sex", "no 'Sex'"), (None, "several")):
        keys = {"output": output, "allowed": ["tests"], "model": ModelConfig(features=features)}
        with pytest.raises(ConfigError, match=f"has outputs 'Age', 'Recognition', {words}; name one in output"):
            network(tmp_path / "net.pth", scores=False, **keys).embeddings(CROPS)


def test_an_output_of_a_network_that_has_one_is_not_passed_over(tmp_path):
    torch.save(Single().state_dict(), tmp_path / "net.pth")
    first = network(tmp_path / "net.pth", False, ["tests"], foreign("Single"), output=0).embeddings(CROPS)
    assert np.array_equal(first, network(tmp_path / "net.pth", False, ["tests"], foreign("Single")).embeddings(CROPS))
    with pytest.raises(ConfigError, match="has one output and no 'age'; leave output out"):
        network(tmp_path / "net.pth", False, ["tests"], foreign("Single"), output="age").embeddings(CROPS)


# ---- any ONNX


def write_onnx(path, kind="FLOAT", last=False, batch=None, size=112):
    """Write a network that gives the means of the channels (`embedding`) and the first of them (`quality`, (B, 1))."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, types = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Cast", ["x"], ["y"], to=types.FLOAT),
        helper.make_node("ReduceMean", ["y"], ["embedding"], axes=[1, 2] if last else [2, 3], keepdims=0),
        helper.make_node("Slice", ["embedding", "start", "end", "axis"], ["quality"]),
    ]
    shape = [batch, size, size, 3] if last else [batch, 3, size, size]
    numbers = [onnx.numpy_helper.from_array(np.array([v]), n) for n, v in (("start", 0), ("end", 1), ("axis", 1))]
    names = (("quality", 1), ("embedding", 3))
    outputs = [helper.make_tensor_value_info(name, types.FLOAT, [batch, n]) for name, n in names]
    entry = helper.make_tensor_value_info("x", getattr(types, kind), shape)
    graph = helper.make_graph(nodes, "g", [entry], outputs, numbers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("batch", [None, 1])
@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_any_onnx_scores_and_embeds_by_a_stated_contract(tmp_path, last, batch, channels):
    path = write_onnx(tmp_path / "net.onnx", last=last, batch=batch)
    means = network_input(0.2, 0.4, channels).mean((2, 3)).numpy()
    found = network(path, channels=channels, mean=0.2, std=0.4)
    np.testing.assert_allclose(found.embeddings(CROPS), means, atol=1e-5)
    np.testing.assert_allclose(found.qualities(CROPS), means[:, 0], atol=1e-5)
    length = network(path, channels=channels, mean=0.2, std=0.4, quality="length").qualities(CROPS)
    np.testing.assert_allclose(length, np.linalg.norm(means, axis=1), atol=1e-5)


def test_an_assumed_contract_of_an_onnx_is_said(tmp_path):
    """evaluate.py takes the official preprocessing where neither file nor configuration says one."""
    path = str(write_onnx(tmp_path / "net.onnx"))
    loader = NetworkLoader(NetworkBuilder(), torch.device("cpu"))
    for keys, said in (
        ({}, "carries no preprocessing contract and none is stated; takes the official"),
        ({"std": 1}, ""),
    ):
        found = loader.load(Described(path, NetworkKeys(**keys), None).network(assume=InputContract()))
        assert said in found.remark and bool(found.remark) == bool(said)


@pytest.mark.parametrize("last", [False, True])
def test_an_onnx_of_pixels_gets_pixels(tmp_path, last):
    path = write_onnx(tmp_path / "net.onnx", "UINT8", last)
    means = CROPS.numpy().astype(np.float64).mean((1, 2))[:, ::-1]
    np.testing.assert_allclose(network(path, channels="BGR").embeddings(CROPS), means, rtol=1e-5)


def test_outputs_of_an_onnx_go_by_name_number_and_preset(tmp_path):
    path = write_onnx(tmp_path / "net.onnx")
    means = network_input().mean((2, 3)).numpy()
    for output in ("quality", 0):
        found = network(path, preset="insightface_onnx", output=output)
        np.testing.assert_allclose(found.qualities(CROPS), means[:, 0], atol=1e-5)
        with pytest.raises(WeightsError, match="gives no embedding, only a quality"):
            found.embeddings(CROPS)
    np.testing.assert_allclose(network(path, preset="ediffiqa_onnx").qualities(CROPS), means[:, 0], atol=1e-5)
    magface = network_input(0, 1, "BGR").mean((2, 3)).numpy()
    np.testing.assert_allclose(network(path, preset="ofiq_magface").qualities(CROPS), magface[:, 0], atol=1e-5)
    wide = network(path, preset="insightface_onnx", output="embedding", quality="output")
    with pytest.raises(WeightsError, match="holds 3 numbers per image, a quality is one"):
        wide.qualities(CROPS)
    with pytest.raises(ConfigError, match="has no output 'score'; it has quality, embedding"):
        network(path, preset="insightface_onnx", output="score").qualities(CROPS)
    with pytest.raises(WeightsError, match=r"carries no preprocessing contract; say .* by preset"):
        network(path)
