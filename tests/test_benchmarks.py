"""The benchmark scripts run, on tiny networks and sets, and their figures arrive in one table. No time is asserted."""

import json
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import sets, suite
from benchmarks.device_warp import FlatBatch, gather_crops
from benchmarks.measuring import Report, Timing
from data.alignment import TEMPLATE_112, estimate_similarity, warp

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(__file__).resolve().parents[2] / "shared"
YUNET, FACES = SHARED / "models/face_detection_yunet_2026may.onnx", SHARED / "faces/images"
FIGURES = {
    "smoke": ["one training step", "scores", "a group of one process"],
    "right": ["cpu, fp32: losses, within 2% of the CPU's", "cpu, bf16: Spearman of the scores"],
    "training_step": ["batch 2: ours / batch 2: released", "batch 4: ours, share of the matrix product"],
    "data_path": ["ours / released", "trial: largest difference from cv2's crops"],
    "inference": ["ours / released", "ours: largest difference of a score", "ours, bf16: Spearman"],
    "index": ["released / ours, from the cache: time", "ours: growth of a worker over an epoch"],
}


def begin_limits_at(line: str, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the time limit of a script begin once it has said a line, as a busy machine starts it late."""

    class Begun(subprocess.Popen):
        def wait(self, timeout: float | None = None) -> int:
            deadline = time.monotonic() + 60
            while timeout is not None and line not in log.read_text().splitlines() and time.monotonic() < deadline:
                time.sleep(0.01)
            return super().wait(timeout)

    monkeypatch.setattr(suite.subprocess, "Popen", Begun)


@pytest.mark.slow
@pytest.mark.parametrize("step", sets.QUICK, ids=lambda step: step.name)
def test_every_script_runs_and_gives_its_figures(step, tmp_path):
    result = suite.run(step._replace(arguments=(*step.arguments, "--rounds", "1")), tmp_path / "log.txt")
    assert "failed" not in result, (tmp_path / "log.txt").read_text()
    rows = {row["what"]: row["value"] for row in result["rows"]}
    assert set(FIGURES[step.name]) <= set(rows)
    if step.name == "inference":
        assert rows["ours: largest difference of a score"] < 1e-5
    if step.name == "data_path":
        assert rows["trial: largest difference from cv2's crops"] <= 4  # OpenCV 4 rounds positions to 1/32 pixel
    table = suite.markdown([result])
    assert all(f"| {what} |" in table for what in FIGURES[step.name])


def test_a_script_that_fails_is_named_and_the_others_run(tmp_path, monkeypatch, capsys):
    broken = sets.Step("broken", ("-c", "import nothing_of_that_name"), has_json=False)
    whole = sets.Step("whole", ("-c", "print('3 passed')"), has_json=False)
    monkeypatch.setattr(suite, "CPU", (broken, whole))
    assert suite.main(["--out", str(tmp_path)]) == 1
    assert "did not finish: broken" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert "nothing_of_that_name" in results[0]["failed"] and results[1]["rows"][0]["value"] == "3 passed"
    assert "**Did not finish:** ModuleNotFoundError" in (tmp_path / "results.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"log.txt", "results.json", "results.md"}


def test_a_script_that_takes_too_long_keeps_its_figures_and_later_ones_are_named(tmp_path, monkeypatch):
    program = """
import sys, time
from pathlib import Path
Path(sys.argv[2]).write_text('{"rows": [{"what": "early", "value": 1.0, "unit": "", "rounds": []}]}')
print("early", flush=True)
time.sleep(600)
"""
    steps = sets.Step("slow", ("-c", program)), sets.Step("later", ("-c", "print('never')"), has_json=False)
    monkeypatch.setattr(suite, "CPU", steps)
    begin_limits_at("early", tmp_path / "log.txt", monkeypatch)
    assert suite.main(["--out", str(tmp_path), "--seconds", "3"]) == 1
    slow, later = json.loads((tmp_path / "results.json").read_text())
    assert slow["rows"][0]["what"] == "early" and slow["failed"].startswith("stopped after ")
    assert later["failed"] == "no time was left for it" and "rows" not in later


def test_scripts_without_times_run_beside_one_another(tmp_path, monkeypatch):
    """Each of two, with half of the cores, waits for what the other one writes; a third, with times, runs alone."""
    program = """
import os, sys, time
from pathlib import Path
Path(sys.argv[1]).touch()
while not Path(sys.argv[2]).exists():
    time.sleep(0.01)
print("met with", os.environ.get("OMP_NUM_THREADS"))
"""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(suite.os, "cpu_count", lambda: 16)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    steps = [
        sets.Step("a", ("-c", program, a, b), has_json=False, timed=False),
        sets.Step("b", ("-c", program, b, a), has_json=False, timed=False),
        sets.Step("c", ("-c", program, a, b), has_json=False),
    ]
    assert [[step.name for step in group] for group in suite.groups(steps)] == [["a", "b"], ["c"]]
    monkeypatch.setattr(suite, "CPU", tuple(steps))
    assert suite.main(["--out", str(tmp_path / "out"), "--seconds", "60"]) == 0
    results = json.loads((tmp_path / "out/results.json").read_text())
    outcomes = {result["name"]: result["rows"][0]["value"] for result in results}
    assert outcomes == {"a": "met with 8", "b": "met with 8", "c": "met with None"}
    said = (tmp_path / "out/log.txt").read_text().splitlines()
    assert {"[a] met with 8", "[b] met with 8", "met with None"} <= set(said)


def test_what_a_stopped_script_leaves_behind_is_not_waited_for(tmp_path, monkeypatch):
    """Its worker holds the pipe open for a minute."""
    monkeypatch.setattr(suite, "PATIENCE_S", 0.2)
    begin_limits_at("begun", tmp_path / "log.txt", monkeypatch)
    worker = "import time; print('begun', flush=True); time.sleep(60)"
    program = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {worker!r}])"
    started = time.monotonic()
    result = suite.run(sets.Step("left", ("-c", program), has_json=False), tmp_path / "log.txt", 2)
    assert time.monotonic() - started < 30
    assert result["failed"] == "stopped after 2 s" and "begun" in (tmp_path / "log.txt").read_text().splitlines()


def test_one_script_alone_keeps_the_figures_of_the_others(tmp_path, monkeypatch, capsys):
    def say(name, words):
        return sets.Step(name, ("-c", f"print({words!r})"), has_json=False)

    def outcomes():
        return [result["rows"][0]["value"] for result in json.loads((tmp_path / "results.json").read_text())]

    monkeypatch.setattr(suite, "CPU", (say("a", "first"), say("b", "second")))
    assert suite.main(["--out", str(tmp_path), "--only", "b"]) == 0
    assert outcomes() == ["second"]
    monkeypatch.setattr(suite, "CPU", (say("a", "third"), say("b", "fourth")))
    assert suite.main(["--out", str(tmp_path), "--only", "a"]) == 0
    assert outcomes() == ["third", "second"]
    said = (tmp_path / "log.txt").read_text().splitlines()
    assert [line for line in said if line and not line.startswith("==")] == ["second", "third"]
    with pytest.raises(SystemExit):
        suite.main(["--out", str(tmp_path), "--only", "c"])
    assert "--only c: no such script in this set; there are a, b" in capsys.readouterr().err


def test_a_package_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
    (tmp_path / "pyarrow.py").write_text("import nothing_of_that_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pyarrow", raising=False)
    assert [name for name in suite.missing_packages() if "pyarrow" in name] == [
        "pyarrow (No module named 'nothing_of_that_name')"
    ]


@pytest.mark.slow
def test_a_variant_that_does_not_work_is_named_and_the_others_are_measured(tmp_path, monkeypatch):
    """Without onnxscript there is no ONNX file."""
    (tmp_path / "onnxscript.py").write_text("raise ImportError('no onnxscript here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    step = next(step for step in sets.QUICK if step.name == "inference")
    arguments = [part for part in step.arguments if part not in ("--with", "bf16")]
    result = suite.run(step._replace(arguments=(*arguments, "--rounds", "1", "--with", "onnx")), tmp_path / "log.txt")
    assert "failed" not in result, (tmp_path / "log.txt").read_text()
    rows = {row["what"]: row["value"] for row in result["rows"]}
    assert rows["ours, onnx"].startswith("does not work here: ") and rows["ours / released"] > 0


def test_ratios_are_taken_round_by_round(tmp_path, capsys):
    report = Report("trial", type("Options", (), {"json": tmp_path / "trial.json"})())
    ours = [Timing(10, 1.0, 2.0), Timing(10, 2.0, 2.0), Timing(10, 1.0, 2.0)]
    released = [Timing(10, 4.0, 2.0), Timing(10, 4.0, 4.0), Timing(10, 8.0, 8.0)]
    report.compare({"released": released, "ours": ours}, "released")
    rows = {row["what"]: row for row in json.loads((tmp_path / "trial.json").read_text())["rows"]}
    assert rows["ours / released"]["rounds"] == [4, 2, 8] and rows["ours / released"]["value"] == 4
    assert rows["ours"]["value"] == 10 and rows["released"]["rounds"] == [2.5, 2.5, 1.25]
    assert "ours / released" in capsys.readouterr().out


def test_figures_stay_whole_when_a_script_is_killed_while_it_writes_them(tmp_path):
    path = tmp_path / "trial.json"
    report = Report("trial", type("Options", (), {"json": path})())
    report.add("early", 1.0)

    class Cut:
        def __str__(self) -> str:
            raise KeyboardInterrupt  # when half of the text is written

    report.options["last"] = Cut()
    with pytest.raises(KeyboardInterrupt):
        report.add("late", 2.0)
    assert [row["what"] for row in json.loads(path.read_text())["rows"]] == ["early"]


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


def test_the_gpu_set_measures_what_the_cpu_set_does_and_starts_with_a_smoke_test():
    scripts = [step.arguments[1] for step in sets.GPU if step.has_json]
    measured = {step.arguments[1] for step in sets.CPU} - {"benchmarks.index"}  # the index needs no GPU
    measured = measured - {"benchmarks.training_step"} | {"benchmarks.settings"}  # more settings of the same step
    assert measured < set(scripts) and scripts[0] == "benchmarks.smoke"
    names = [step.name for step in sets.GPU]
    assert len(names) == len(set(names)) and sets.GPU_TESTS in sets.GPU


def test_every_file_with_tests_of_a_gpu_is_in_its_set():
    files = [path for path in (ROOT / "tests").glob("test_*.py") if path != Path(__file__)]
    wanted = {f"tests/{path.name}" for path in files if "mark.gpu" in path.read_text()}
    assert wanted == {word for word in sets.GPU_TESTS.arguments if word.startswith("tests/")}


@pytest.mark.parametrize("step", [step for step in sets.GPU if step.has_json], ids=lambda step: step.name)
def test_small_arguments_follow_those_that_a_script_has(step):
    module, names = step.arguments[1], {word for word in step.small if word.startswith("--")}
    said = (ROOT / f"{module.replace('.', '/')}.py").read_text() + (ROOT / "benchmarks/measuring.py").read_text()
    if "parse_settings" in said:
        said += (ROOT / "benchmarks/settings.py").read_text()
    assert all(f'"{name}"' in said for name in names | {"--device", "--json"})
    small = step.at("cpu", small=True).arguments
    assert small[: len(step.arguments)] == step.arguments and small[-2:] == ("--rounds", "1")
    assert step.at("cuda", small=False).arguments == (*step.arguments, "--device", "cuda")


@pytest.mark.slow
@pytest.mark.skipif(not (YUNET.is_file() and FACES.is_dir()), reason="needs ../shared/models and faces")
def test_photographs_are_scored_alike_by_every_contestant(tmp_path):
    options = ("--images", "4", "--network", "compact", "--rounds", "1")
    result = suite.run(sets.benchmark("photographs", str(FACES), str(YUNET), *options), tmp_path / "log.txt")
    assert "failed" not in result, (tmp_path / "log.txt").read_text()
    rows = {row["what"]: row["value"] for row in result["rows"]}
    assert rows["photographs with a face"] == 4
    assert rows["ours: median difference of a score"] < 1e-5
    assert "ours / one image at a time" in rows
