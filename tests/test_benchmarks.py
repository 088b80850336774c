"""The benchmark scripts run, on tiny networks and sets, and their figures arrive in one table. No time is asserted."""

import json

import cv2
import numpy as np
import pytest

from benchmarks import suite
from benchmarks.device_warp import FlatBatch, gather_crops
from benchmarks.measuring import Report, Timing
from data.alignment import TEMPLATE_112, estimate_similarity, warp

FIGURES = {
    "training_step": ["batch 2: ours / batch 2: released", "batch 4: ours, share of the matrix product"],
    "data_path": ["ours / released", "trial: largest difference from cv2's crops"],
    "inference": ["ours / released", "ours: largest difference of a score", "ours, bf16: Spearman"],
    "index": ["released / ours, from the cache: time", "ours: growth of a worker over an epoch"],
}


@pytest.mark.slow
@pytest.mark.parametrize("step", suite.QUICK, ids=lambda step: step.name)
def test_every_script_runs_and_gives_its_figures(step, tmp_path):
    result = suite.run(step._replace(arguments=(*step.arguments, "--rounds", "1")), tmp_path)
    assert "failed" not in result, (tmp_path / f"{step.name}.txt").read_text()
    rows = {row["what"]: row["value"] for row in result["rows"]}
    assert set(FIGURES[step.name]) <= set(rows)
    if step.name == "inference":
        assert rows["ours: largest difference of a score"] < 1e-5
    if step.name == "data_path":
        assert rows["trial: largest difference from cv2's crops"] <= 4  # OpenCV 4 rounds positions to 1/32 pixel
    table = suite.markdown([result])
    assert all(f"| {what} |" in table for what in FIGURES[step.name])


def test_a_script_that_fails_is_named_and_the_others_run(tmp_path, monkeypatch, capsys):
    broken = suite.Step("broken", ("-c", "import nothing_of_that_name"), has_json=False)
    whole = suite.Step("whole", ("-c", "print('3 passed')"), has_json=False)
    monkeypatch.setattr(suite, "CPU", (broken, whole))
    assert suite.main(["--out", str(tmp_path)]) == 1
    assert "did not finish: broken" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert "nothing_of_that_name" in results[0]["failed"] and results[1]["rows"][0]["value"] == "3 passed"
    assert "**Did not finish:** ModuleNotFoundError" in (tmp_path / "results.md").read_text()


def test_ratios_are_taken_round_by_round(tmp_path, capsys):
    report = Report("trial", type("Options", (), {"json": tmp_path / "trial.json"})())
    ours = [Timing(10, 1.0, 2.0), Timing(10, 2.0, 2.0), Timing(10, 1.0, 2.0)]
    released = [Timing(10, 4.0, 2.0), Timing(10, 4.0, 4.0), Timing(10, 8.0, 8.0)]
    report.compare({"released": released, "ours": ours}, "released")
    rows = {row["what"]: row for row in json.loads((tmp_path / "trial.json").read_text())["rows"]}
    assert rows["ours / released"]["rounds"] == [4, 2, 8] and rows["ours / released"]["value"] == 4
    assert rows["ours"]["value"] == 10 and rows["released"]["rounds"] == [2.5, 2.5, 1.25]
    assert "ours / released" in capsys.readouterr().out


def test_gathered_crops_are_those_of_the_warp():
    """Images of different sizes, crops that reach outside them: as warped, within the rounding of positions."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (2, 9, 9, 3), dtype=np.uint8)
    images = [cv2.resize(c, size, interpolation=cv2.INTER_CUBIC) for c, size in zip(coarse, ((70, 90), (180, 150)))]
    points = [TEMPLATE_112 * 0.6 - 4, TEMPLATE_112 * 1.2 + (15, 9)]
    turn = np.arange(10).reshape(5, 2)
    matrices = np.array([[estimate_similarity(p + k * turn, TEMPLATE_112) for p in points] for k in (0, 0.6)])
    found = gather_crops(FlatBatch.of(images, matrices)).numpy()
    assert found.shape == (2, 2, 112, 112, 3) and found.dtype == np.uint8
    tolerance = 1 if int(cv2.__version__.split(".")[0]) >= 5 else 4  # OpenCV 4 rounds positions to 1/32 pixel
    for crops, per_image in zip(found, matrices, strict=True):
        wanted = np.array([warp(image, matrix) for image, matrix in zip(images, per_image, strict=True)])
        assert np.abs(crops.astype(int) - wanted).max() <= tolerance
        assert (crops[0] == 0).all(axis=2).mean() > 0.05  # this one reaches outside its image


def test_the_gpu_set_is_the_cpu_set_on_a_gpu_with_the_gpu_tests():
    scripts = {step.arguments[1] for step in suite.CUDA if step.has_json}
    assert scripts == {step.arguments[1] for step in suite.CPU} == {step.arguments[1] for step in suite.QUICK}
    assert suite.GPU_TESTS in suite.CUDA
