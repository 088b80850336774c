"""Weights files: every known layout, wrapper and precision loads."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model import iresnet
from model.mlp import MLP, LinearHead
from model.weights import load_backbone, load_student, read_state_dict, split_state
from tests.helpers.networks import TinyBackbone
from tests.helpers.weights import Student, prefixed, randomised, refused, same, saved
from utils.errors import WeightsError

GOLDEN = json.loads(gzip.decompress((Path(__file__).parent / "golden_state_dicts.json.gz").read_bytes()))


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


# torch says that it will drop quantised tensors; files that hold them are there
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor, .* are deprecated:UserWarning")
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning")
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


def test_reading_keeps_the_order_and_the_cpu(tmp_path):
    state = TinyBackbone().state_dict()
    read = read_state_dict(saved(tmp_path / "w.pth", state))
    assert list(read) == list(state) and all(value.device.type == "cpu" for value in read.values())
