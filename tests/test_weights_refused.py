"""Weights files that do not fit, or are none: refused in one sentence, and nothing is loaded."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from model.mlp import LinearHead
from model.weights import load_student
from tests.helpers.networks import TinyBackbone
from tests.helpers.weights import Student, prefixed, randomised, refused, saved


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
