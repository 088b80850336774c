"""inference.py: right scores whatever the batches, processes and weights; mistakes named."""

import io
import json
import os
import pickle
import tracemalloc

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from scipy.stats import percentileofscore

from data.tables import scores
from data.tables.scores import percentiles
from model.ai_kd import WrapperModel
from model.mlp import LinearHead
from tests.helpers.images import write_broken, write_crops
from tests.helpers.inference import (
    STUDENT,
    assert_scores,
    expected_of,
    infer,
    rows_of,
    scores_of,
    write_repeatable_setup,
)
from utils.contract import InputContract, save_contract
from utils.pickles import load_restricted_pickle


@pytest.fixture
def setup(tmp_path, caplog):
    caplog.set_level("INFO")
    return write_repeatable_setup(tmp_path)


# ---- scores


@pytest.mark.parametrize("count", [1, 4, 5, 9])
def test_every_image_is_scored_whatever_is_left_for_the_last_batch(setup, count):
    names = write_crops(setup / "faces", count)
    assert infer(setup) == 0
    wanted = expected_of(names)
    assert_scores(scores_of(setup / "out"), wanted)
    assert len(set(wanted.values())) == count  # the oracle tells images apart


def test_the_official_pickle_maps_full_paths_as_walked_to_float32(setup):
    names = write_crops(setup / "faces", 3)
    loc = f"{setup}/faces/"
    assert infer(setup, f"dataset.loc={loc}") == 0
    with open(setup / "out/quality-scores.pkl", "rb") as stream:
        table = pickle.load(stream)
    walked = sorted(os.path.join(top, file) for top, _, files in os.walk(loc) for file in files)
    assert list(table) == walked
    assert {type(value) for value in table.values()} == {np.float32}
    assert list(table.values()) == list(scores_of(setup / "out").values())
    assert len(names) == len(table)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
def test_scores_do_not_depend_on_the_batch_size(setup, batch_size):
    write_crops(setup / "faces", 7)
    assert infer(setup, "dataloader.params.batch_size=7", f"base.save_path={setup}/whole") == 0
    assert infer(setup, f"dataloader.params.batch_size={batch_size}") == 0
    one, other = scores_of(setup / "whole"), scores_of(setup / "out")
    assert list(one) == list(other)
    np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=0, atol=1e-5)


def test_scores_do_not_depend_on_the_decoding_processes(setup):
    write_crops(setup / "faces", 9)
    write_broken(setup / "faces")
    assert infer(setup) == 0
    assert infer(setup, "dataloader.params.num_workers=2", f"base.save_path={setup}/two") == 0
    for name in ("quality-scores.csv", "quality-scores.pkl", "failures.csv"):
        assert (setup / "out" / name).read_bytes() == (setup / "two" / name).read_bytes()


def test_percentiles_are_ranks_within_the_run(setup):
    write_crops(setup / "faces", 7)
    assert infer(setup) == 0
    rows = rows_of(setup / "out/quality-scores.csv")
    qualities = [float(row["quality"]) for row in rows]
    wanted = [percentileofscore(qualities, value, kind="rank") for value in qualities]
    assert [float(row["percentile"]) for row in rows] == pytest.approx(wanted, abs=1e-4)
    assert max(wanted) == 100


def test_equal_scores_share_their_mean_rank():
    values = np.float32([0.5, -1, 0.5, 2, 0.5, 2])
    wanted = [percentileofscore(values, value, kind="rank") for value in values]
    np.testing.assert_allclose(percentiles(values), wanted)
    np.testing.assert_allclose(wanted, [50, 100 / 6, 50, 550 / 6, 50, 550 / 6])
    assert percentiles(np.float32([3])).tolist() == [100]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 8])
def test_a_pickle_written_in_parts_is_one_dict(monkeypatch, count):
    monkeypatch.setattr(scores, "_ENTRIES_AT_ONCE", 3)
    wanted = {f"folder/{i}.png": np.float32(i / 7) for i in range(count)}
    stream = io.BytesIO()
    scores.dump_dict(wanted.items(), stream)
    for load in (pickle.loads, lambda content: load_restricted_pickle(io.BytesIO(content))):
        found = load(stream.getvalue())
        assert type(found) is dict and list(found.items()) == list(wanted.items())
        assert all(type(value) is np.float32 for value in found.values())


def test_a_pickle_of_many_entries_is_written_without_holding_them(monkeypatch, tmp_path):
    monkeypatch.setattr(scores, "_ENTRIES_AT_ONCE", 1000)
    tracemalloc.start()
    try:
        with open(tmp_path / "many.pkl", "wb") as stream:
            scores.dump_dict(((f"folder/{i}.png", float(i)) for i in range(40_000)), stream)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1e6  # the dict alone would take more than four times that


def test_bf16_is_close_and_recorded(setup):
    write_crops(setup / "faces", 5)
    assert infer(setup) == 0
    full = scores_of(setup / "out")
    assert infer(setup, "base.precision=bf16") == 0
    half = scores_of(setup / "out")
    np.testing.assert_allclose(list(half.values()), list(full.values()), atol=0.05)
    assert half != full
    assert json.loads((setup / "out/run.json").read_text())["request"]["precision"] == "bf16, the network itself"


# ---- weights and contract


def test_safetensors_score_the_same(setup):
    write_crops(setup / "faces", 3)
    assert infer(setup) == 0
    before = (setup / "out/quality-scores.csv").read_bytes()
    save_file(STUDENT.state_dict(), setup / "student.safetensors")
    assert infer(setup, f"model.weight={setup}/student.safetensors") == 0
    assert (setup / "out/quality-scores.csv").read_bytes() == before


RENAMES = {
    "eDifFIQA": {"feature_extractor.": "base_model.", "quality_head.": "mlp."},
    "DifFIQA(R)": {"feature_extractor.": "base.", "quality_head.": "linear."},
    "CR-FIQA": {"feature_extractor.": "", "quality_head.": "qs."},
}


@pytest.mark.parametrize("layout", RENAMES)
def test_weights_of_other_quality_models_score(setup, layout):
    student = STUDENT
    if layout != "eDifFIQA":
        student = WrapperModel(STUDENT.feature_extractor, LinearHead(8)).eval()
        model = yaml.safe_load((setup / "model_config.yaml").read_text())
        model["head"] = {"module": "model.mlp.LinearHead"}
        (setup / "model_config.yaml").write_text(yaml.safe_dump(model))
    state = {}
    for key, tensor in student.state_dict().items():
        prefix = key.partition(".")[0] + "."
        state[RENAMES[layout][prefix] + key.removeprefix(prefix)] = tensor
    torch.save(state, setup / "student.pth")
    names = write_crops(setup / "faces", 3)
    assert infer(setup) == 0
    wanted = expected_of(names, student)
    assert_scores(scores_of(setup / "out"), wanted)


def test_the_contract_beside_the_weights_must_match(setup, capsys, caplog):
    write_crops(setup / "faces", 2)
    assert infer(setup) == 0
    assert caplog.text.count("no contract file student.json") == 1
    save_contract(InputContract(), setup / "student.pth")
    assert infer(setup, "base.verbose=0") == 0
    assert caplog.text.count("no contract file") == 1
    save_contract(InputContract(mean=(0.4, 0.4, 0.4)), setup / "student.pth")
    before = (setup / "out/quality-scores.csv").read_bytes()
    capsys.readouterr()
    assert infer(setup) == 2
    message = capsys.readouterr().err
    assert "mean" in message and "student.json" in message and message.count("\n") == 1
    assert (setup / "out/quality-scores.csv").read_bytes() == before


# ---- mistakes


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["dataset.loc=nowhere/faces"], ["nowhere/faces", "dataset.loc"]),
        (["model.weight=nowhere/w.pth"], ["nowhere/w.pth", "weights"]),
        (["model.config=nowhere/m.yaml"], ["nowhere/m.yaml"]),
        (["base.device=cuda:9"], ["cuda:9", "base.device"]),
        (["base.device=tpu"], ["tpu", "base.device"]),
        (["base.strickt=1"], ["base.strickt", "strict"]),
        (["base.precision=fp8"], ["base.precision", "fp8"]),
        (["dataloader.params.batch_size=0"], ["dataloader.params.batch_size", "0"]),
        (["dataset.input=landmarks"], ["dataset.landmarks"]),
        (["dataset.landmarks=x.csv"], ["dataset.input"]),
        (["dataset.input=landmarks", "dataset.landmarks=nowhere.csv"], ["nowhere.csv"]),
        (["output.formats=[xml]"], ["output.formats", "xml"]),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_2(setup, capsys, overrides, words):
    write_crops(setup / "faces", 1)
    assert infer(setup, *overrides) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    assert all(word in lines[0] for word in words), lines
    assert not (setup / "out").exists()


def test_weights_that_do_not_fit_are_named_before_anything_is_written(setup, capsys):
    write_crops(setup / "faces", 1)
    state = STUDENT.state_dict()
    del state["quality_head.l1.weight"]
    torch.save(state, setup / "student.pth")
    assert infer(setup) == 2
    assert "quality_head.l1.weight" in capsys.readouterr().err
    assert not (setup / "out").exists()
