"""What a run is made of: configurations, weights, contracts and ONNX files, each with its reader."""

import json
from pathlib import Path

import onnx
import torch
import yaml
from onnx import TensorProto, helper

from jobs.methods import load_training
from model.compact import CompactNet
from model.frozen.onnx_network import OnnxNetwork
from model.weights import load_backbone
from tests.fuzz.kind import Kind, saved
from tests.fuzz.mutation import mutated, of_lines, of_members
from utils.config import load_config
from utils.config.evaluate import EvaluateConfig
from utils.config.inference import InferenceConfig
from utils.contract import InputContract, load_contract

TINY = {"num_features": 4, "width": 2}


TRAINING = {
    "base": {"epochs": 2, "save_path": "run", "device": "cpu"},
    "dataset": {"image_location": "a", "quality_location": "b.csv", "landms_location": "c.csv", "val_percent": 0.2},
    "dataloader": {"train": {"params": {"batch_size": 4}}, "val": {"params": {"batch_size": 8}}},
    "model": {"config": "model_config.yaml"},
    "optimizer": {"group_1": {"params": "quality_head", "lr": 0.05}},
}


SCORING = {
    "base": {"save_path": "out", "device": "cpu"},
    "dataset": {"loc": "faces"},
    "model": {"config": "m.yaml", "weight": "w.pth"},
}


EVALUATION = {
    "base": {"save_path": "out", "device": "cpu"},
    "datasets": {"D": {"pairs": "p.txt", "format": "list"}},
    "recognition": {"R": {"embeddings": {"D": "e.npz"}}},
    "scores": {"S": {"D": "s.csv"}},
}


def _yaml(values: dict) -> bytes:
    return yaml.safe_dump(values, sort_keys=False).encode()


def _network() -> bytes:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3, 2], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["m", "w"], ["y"]),
    ]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3, 112, 112])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 2])
    graph = helper.make_graph(nodes, "g", [image], [out], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    entry = model.metadata_props.add()
    entry.key, entry.value = "contract", json.dumps(InputContract().to_dict())
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _backbone() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return CompactNet(**TINY).state_dict()


def _safetensors() -> bytes:
    from safetensors.torch import save

    return save({name: tensor.contiguous() for name, tensor in _backbone().items()})


def _contract(path: Path) -> object:
    return load_contract(path.with_suffix(".pth"))


RUNS = {
    "training.yaml": Kind(".yaml", [_yaml(TRAINING)], load_training, of_lines, 0.5),
    "scoring.yaml": Kind(".yaml", [_yaml(SCORING)], lambda path: load_config(InferenceConfig, path), of_lines),
    "evaluation.yaml": Kind(".yaml", [_yaml(EVALUATION)], lambda path: load_config(EvaluateConfig, path), of_lines),
    "weights, pth": Kind(
        ".pth",
        [
            saved(lambda stream: torch.save(_backbone(), stream)),
            saved(lambda stream: torch.save({"state_dict": _backbone(), "epoch": 3}, stream)),
        ],
        lambda path: load_backbone(CompactNet(**TINY), path),
        of_members,
        0.5,
    ),
    "weights, old pth": Kind(
        ".pth",
        [
            saved(lambda stream: torch.save(_backbone(), stream, _use_new_zipfile_serialization=False)),
        ],
        lambda path: load_backbone(CompactNet(**TINY), path),
        mutated,
        0.5,
    ),
    "weights, safetensors": Kind(
        ".safetensors", [_safetensors()], lambda path: load_backbone(CompactNet(**TINY), path)
    ),
    "contract": Kind(".json", [json.dumps({"contract": InputContract().to_dict(), "step": 3}).encode()], _contract),
    "ONNX": Kind(
        ".onnx",
        [_network()],
        lambda path: OnnxNetwork(path.read_bytes(), path, torch.device("cpu"), InputContract()),
        mutated,
        0.5,
    ),
}
