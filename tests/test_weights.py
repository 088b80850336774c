"""Weights files: every known layout loads, everything else is refused in one sentence."""

import gzip
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model import iresnet
from model.mlp import MLP, LinearHead
from model.weights import load_backbone, load_student, read_state_dict, split_state
from tests.helpers.networks import TinyBackbone
from utils.errors import WeightsError

GOLDEN = json.loads(gzip.decompress((Path(__file__).parent / "golden_state_dicts.json.gz").read_bytes()))


class Student(torch.nn.Module):
    """The two attributes that load_student asks for."""

    def __init__(self, head=None):
        super().__init__()
        self.feature_extractor = TinyBackbone()
        self.quality_head = head if head is not None else MLP(in_dim=8, hidden_dim=4)


def randomised(module):
    """Give every floating value of `module` its own number, buffers too."""
    generator = torch.Generator().manual_seed(5)
    for value in module.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.1)
    return module


def saved(path, state):
    torch.save(state, path)
    return path


def prefixed(state, prefix):
    return {prefix + key: value.clone() for key, value in state.items()}


def same(module, state):
    own = module.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in own)


LAYOUTS = {  # name: (backbone prefix, head prefix, head class)
    "AI-KD": ("feature_extractor.", "quality_head.", lambda: MLP(8, 4)),
    "eDifFIQA": ("base_model.", "mlp.", lambda: MLP(8, 4)),
    "DifFIQA(R)": ("base.", "linear.", lambda: LinearHead(8)),
    "CR-FIQA": ("", "qs.", lambda: LinearHead(8)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_loads_as_student_and_as_backbone(tmp_path, layout):
    body, top, new_head = LAYOUTS[layout]
    source = randomised(Student(new_head()))
    backbone, head = source.feature_extractor.state_dict(), source.quality_head.state_dict()
    path = saved(tmp_path / "w.pth", {**prefixed(backbone, body), **prefixed(head, top)})
    student, alone = Student(new_head()), TinyBackbone()
    load_student(student, path)
    load_backbone(alone, path)
    assert same(student.feature_extractor, backbone) and same(student.quality_head, head) and same(alone, backbone)


def test_plain_backbone_loads(tmp_path):
    source = randomised(TinyBackbone())
    target = TinyBackbone()
    load_backbone(target, saved(tmp_path / "r100.pth", source.state_dict()))
    assert same(target, source.state_dict())


@pytest.mark.parametrize("depth", [18, 100])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_key_lists_are_recognised(layout, depth):
    body, top, _ = LAYOUTS[layout]
    keys = GOLDEN[f"iresnet{depth}"]
    head = ("l1.weight", "l1.bias", "l2.weight", "l2.bias") if "mlp" in top or "head" in top else ("weight", "bias")
    with torch.device("meta"):
        network = getattr(iresnet, f"iresnet{depth}")()
        state = {body + key: torch.empty(shape) for key, shape in keys.items()}
        state |= {top + key: torch.empty(1) for key in head}
    split = split_state(state, network)
    assert split.layout.name == layout
    assert split.backbone.keys() == keys.keys() == network.state_dict().keys()
    assert tuple(split.head) == head and not split.rest


def wrap_module(state):
    return prefixed(state, "module.")


def wrap_twice(state):
    return {"epoch": 3, "state_dict": {"state_dict": prefixed(state, "module._orig_mod.")}}


def wrap_average(state):
    return {"n_averaged": torch.tensor(7), **prefixed(state, "module.")}


def wrap_insightface(state):
    return {"epoch": 3, "state_dict_backbone": prefixed(state, "module."), "state_optimizer": {}}


@pytest.mark.parametrize("wrap", [wrap_module, wrap_twice, wrap_average, wrap_insightface])
def test_wrappers_of_torch_are_taken_off(tmp_path, wrap):
    source = randomised(TinyBackbone())
    target = TinyBackbone()
    load_backbone(target, saved(tmp_path / "w.pth", wrap(source.state_dict())))
    assert same(target, source.state_dict())


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "encoder.", "model.", "module.backbone."])
@pytest.mark.parametrize("wrapper", [None, "net", "model"])
def test_one_common_prefix_and_the_usual_wrappers_are_taken_off(tmp_path, prefix, wrapper):
    source, target = randomised(TinyBackbone()), TinyBackbone()
    state = prefixed(source.state_dict(), prefix)
    load_backbone(target, saved(tmp_path / "w.pth", state if wrapper is None else {"epoch": 1, wrapper: state}))
    assert same(target, source.state_dict())


def test_a_students_common_prefix_is_taken_off(tmp_path):
    state = randomised(Student()).state_dict()
    student = Student()
    load_student(student, saved(tmp_path / "w.pth", {"state_dict": prefixed(state, "model.")}))
    assert same(student, state)


@pytest.mark.parametrize("body", ["features.module.", "module.features.module.", "features.", "model."])
def test_class_weights_beside_a_backbone_are_left_aside(tmp_path, body):
    """MagFace keeps its class weights in `fc.weight`, Lightning checkpoints in `head.*`."""
    source, target = randomised(TinyBackbone()), TinyBackbone()
    classes = "head.kernel" if body == "model." else body.partition("features.")[0] + "fc.weight"
    state = {classes: torch.zeros(8, 9), **prefixed(source.state_dict(), body)}
    load_backbone(target, saved(tmp_path / "w.ckpt", {"state_dict": state}))
    assert same(target, source.state_dict())


def test_an_own_submodule_called_model_keeps_its_name(tmp_path):
    source, target = (torch.nn.ModuleDict({"model": TinyBackbone()}) for _ in range(2))
    randomised(source)
    load_backbone(target, saved(tmp_path / "w.pth", prefixed(source.state_dict(), "module.")))
    assert same(target, source.state_dict())


@pytest.mark.parametrize("names", [("model", "ema"), ("state_dict", "state_dict_ema"), ("model", "model_ema")])
def test_of_a_model_and_its_average_the_average_is_taken_unless_the_other_is_named(tmp_path, caplog, names):
    halves = [randomised(TinyBackbone()).state_dict() for _ in names]
    halves[1]["fc.bias"] = halves[1]["fc.bias"] + 1
    path = saved(tmp_path / "w.pth", dict(zip(names, halves, strict=True)))
    target = TinyBackbone()
    with caplog.at_level("INFO"):
        load_backbone(target, path)
    assert same(target, halves[1]) and f"took {names[1]!r}" in caplog.text and f"part: {names[0]}" in caplog.text
    load_backbone(target, path, names[0])
    assert same(target, halves[0])
    with pytest.raises(WeightsError, match="holds no entry 'weights'; name another in part"):
        load_backbone(target, path, "weights")


def test_whole_numbers_without_a_scale_are_refused_and_with_one_are_read(tmp_path):
    state = dict(randomised(TinyBackbone()).state_dict())
    weight = state["fc.weight"]
    state["fc.weight"] = (weight * 100).to(torch.int8)
    message = refused(saved(tmp_path / "w.pth", state))
    assert "1 key of whole numbers without a scale (fc.weight torch.int8)" in message
    state["fc.weight"] = torch.quantize_per_tensor(weight, 0.01, 0, torch.qint8)
    target = TinyBackbone()
    load_backbone(target, saved(tmp_path / "q.pth", state))
    torch.testing.assert_close(target.fc.weight, weight, rtol=0, atol=0.0051)


def test_compiled_part_of_a_student(tmp_path):
    state = randomised(Student()).state_dict()
    renamed = {key.replace("feature_extractor.", "feature_extractor._orig_mod."): v for key, v in state.items()}
    student = Student()
    load_student(student, saved(tmp_path / "w.pth", renamed))
    assert same(student, state)


def test_own_submodule_called_base_is_not_taken_for_a_layout(tmp_path):
    class Based(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.base = torch.nn.Linear(2, 2)
            self.linear = torch.nn.Linear(2, 2)

    source, target = randomised(Based()), Based()
    state = {key: value.clone() for key, value in source.state_dict().items()}
    load_backbone(target, saved(tmp_path / "w.pth", state))
    assert same(target, state)


def test_safetensors_and_old_torch_files(tmp_path):
    state = randomised(TinyBackbone()).state_dict()
    save_file(state, tmp_path / "w.SAFETENSORS")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("w.SAFETENSORS", "old.pt"):
        target = TinyBackbone()
        load_backbone(target, tmp_path / name)
        assert same(target, state)


def test_half_precision_weights_and_missing_batch_counters_load(tmp_path):
    state = randomised(TinyBackbone()).state_dict()
    slim = {key: value.half() for key, value in state.items() if "num_batches" not in key}
    target = TinyBackbone()
    load_backbone(target, saved(tmp_path / "w.pth", slim))
    assert target.fc.weight.dtype == torch.float32
    torch.testing.assert_close(target.fc.weight, state["fc.weight"], rtol=1e-3, atol=1e-3)


def refused(path, module=None, loader=load_backbone):
    """Return the sentence with which `path` is refused; the module must keep its values."""
    module = module if module is not None else TinyBackbone()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(WeightsError) as error:
        loader(module, path)
    message = str(error.value)
    assert same(module, before)
    assert message.startswith(str(path)) and "\n" not in message and not message.endswith(".")
    return message


def test_missing_extra_and_misshapen_keys_are_counted_and_named(tmp_path):
    state = dict(TinyBackbone().state_dict())
    del state["bn1.bias"], state["fc.bias"]
    state["fc.weight"] = torch.zeros(3, 784)
    for name in "abcde":
        state[f"extra.{name}"] = torch.zeros(1)
    message = refused(saved(tmp_path / "w.pth", state))
    assert "2 keys missing (bn1.bias, fc.bias)" in message
    assert "5 keys unexpected (extra.a, extra.b, extra.c, ...)" in message
    assert "1 key of another shape (fc.weight (3, 784) for (8, 784))" in message


def test_keys_are_named_as_in_the_file(tmp_path):
    state = dict(randomised(Student()).state_dict())
    del state["feature_extractor.fc.bias"], state["quality_head.l2.bias"]
    message = refused(saved(tmp_path / "w.pth", state), Student(), load_student)
    assert "2 keys missing (feature_extractor.fc.bias, quality_head.l2.bias)" in message


def test_another_network_is_refused(tmp_path):
    assert "unexpected (layer1.0" in refused(saved(tmp_path / "w.pth", {"layer1.0.weight": torch.zeros(2)}))


def test_a_plain_backbone_is_no_student(tmp_path):
    message = refused(saved(tmp_path / "w.pth", TinyBackbone().state_dict()), Student(), load_student)
    assert "no quality head" in message


def test_linear_head_in_the_file_names_the_head_to_configure(tmp_path):
    state = prefixed(TinyBackbone().state_dict(), "base.") | prefixed(LinearHead(8).state_dict(), "linear.")
    message = refused(saved(tmp_path / "w.pth", state), Student(), load_student)
    assert "model.mlp.LinearHead" in message and "DifFIQA(R)" in message


def test_not_finite_weights_are_refused(tmp_path):
    state = dict(TinyBackbone().state_dict())
    state["fc.bias"] = torch.full((8,), float("nan"))
    assert "fc.bias holds NaN" in refused(saved(tmp_path / "w.pth", state))


class Payload:
    """Unpickles by running a command."""

    def __reduce__(self):
        import os

        return os.system, ("touch pwned",)


def test_a_pickle_with_code_is_refused_by_name_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"fc.weight": Payload()}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Payload(), protocol=2))
    for name in ("zip.pth", "plain.pth"):
        message = refused(tmp_path / name)
        assert "posix.system" in message or "nt.system" in message or "os.system" in message
    assert not (tmp_path / "pwned").exists()


def test_a_pickled_module_is_refused(tmp_path):
    torch.save(TinyBackbone(), tmp_path / "whole.pth")
    assert "TinyBackbone" in refused(tmp_path / "whole.pth")


def test_files_that_are_no_weights(tmp_path):
    whole = saved(tmp_path / "whole.pth", TinyBackbone().state_dict()).read_bytes()
    save_file(TinyBackbone().state_dict(), tmp_path / "whole.safetensors")
    cases = {
        "page.pth": b"\n<!DOCTYPE html><html><body>Sign in</body></html>",
        "pointer.pth": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "empty.pth": b"",
        "cut.pth": whole[: len(whole) // 2],
        "noise.pth": bytes(range(256)) * 20,
        "text.pth": b"hello",
        "cut.safetensors": (tmp_path / "whole.safetensors").read_bytes()[:300],
        "empty.safetensors": b"",
    }
    words = {"page.pth": "web page", "pointer.pth": "git lfs pull", "empty.pth": "empty"}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        assert words.get(name, "") in refused(tmp_path / name)
    assert "no such weights file" in refused(tmp_path / "absent.pth")
    assert "no such weights file" in refused(tmp_path)


@pytest.mark.parametrize(
    "content, word",
    [
        ([torch.zeros(1)], "a list"),
        ({}, "a dict"),
        ({"fc.weight": 3}, "'fc.weight' is an int"),
        ({1: torch.zeros(1)}, "entry 1"),
        (torch.zeros(3), "a Tensor"),
    ],
)
def test_contents_that_are_no_state_dict(tmp_path, content, word):
    assert word in refused(saved(tmp_path / "w.pth", content))


def test_reading_keeps_the_order_and_the_cpu(tmp_path):
    state = TinyBackbone().state_dict()
    read = read_state_dict(saved(tmp_path / "w.pth", state))
    assert list(read) == list(state) and all(value.device.type == "cpu" for value in read.values())
