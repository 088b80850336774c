"""What `make bench-gpu` measures runs on a CPU too, tiny; what it counts is counted by hand. No time is asserted."""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import zipfile

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import bounds, loader, memory, right, scoring_settings, sets, settings, smoke
from benchmarks.training_step import make_batches
from tests.helpers.training import ROOT

TINY = ["--network", "compact", "--limit", "9", "--rounds", "1"]
CPU = torch.device("cpu")


def figures(script, folder, *arguments):
    """Run a script in this process; return its figures by name."""
    path = folder / "figures.json"
    script.main([*TINY, *arguments, "--json", str(path)])
    return {row["what"]: row["value"] for row in json.loads(path.read_text())["rows"]}


def test_a_part_of_the_smoke_test_that_fails_does_not_hide_the_others(tmp_path, monkeypatch):
    def broken(device):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(smoke, "PARTS", {"one": broken, "two": lambda device: "done"})
    path = tmp_path / "figures.json"
    with pytest.raises(SystemExit, match="failed: one"):
        smoke.main(["--json", str(path)])
    said = {row["what"]: row["value"] for row in json.loads(path.read_text())["rows"]}
    assert said["one"].startswith("FAILED: no kernel") and said["two"].startswith("done")


def test_every_setting_of_a_training_step_is_measured_or_named(tmp_path):
    rows = figures(settings, tmp_path, "--batches", "2", "--steps", "1")
    for setting in settings.SETTINGS:
        value = rows[f"batch 2: {setting.name}"]
        if setting.graph:
            assert value == "does not work here: a CUDA graph needs a CUDA device"
        else:
            assert value > 0 and rows[f"batch 2: {setting.name} / released"] > 0
    with_teacher, without = (rows[f"batch 2: {name}: share of the matrix product"] for name in ("ours", "cached"))
    assert 0 < without and 0 < with_teacher < 100
    assert rows["fastest"].partition(",")[0] in {setting.name.partition(",")[0] for setting in settings.SETTINGS}


def test_every_setting_of_scoring_is_measured_and_gives_the_scores_of_the_cpu(tmp_path):
    rows = figures(scoring_settings, tmp_path, "--batches", "64", "2", "--steps", "1")
    for name in ("fp32", "released"):
        assert rows[f"batch 64: {name}: largest difference of a score"] < 1e-6
    for name in ("bf16", "bf16 weights"):
        what = f"batch 64: {name}"
        assert 0 < rows[f"{what}: largest difference of a score"] < 0.1 * rows["standard deviation of the scores"]
        assert float(rows[f"{what}: Spearman"]) > 0.99 and rows[f"{what} / released"] > 0
        assert rows[f"batch 2: {name} / released"] > 0
    graph = "batch 64: bf16, CUDA graph"
    assert rows[graph] == "does not work here: a CUDA graph needs a CUDA device" and f"{graph}: Spearman" not in rows


@pytest.mark.parametrize("script", [settings, scoring_settings])
def test_a_setting_that_is_not_there_is_refused_before_anything_is_measured(script, capsys):
    with pytest.raises(SystemExit):
        script.main(["--only", "fp32", "ours", "faster"])
    assert "no setting" in capsys.readouterr().err


def test_the_settings_that_the_set_of_a_gpu_names_are_there():
    for step in (step for step in sets.GPU if "--only" in step.arguments):
        script = {"benchmarks.settings": settings, "benchmarks.scoring_settings": scoring_settings}[step.arguments[1]]
        known = {setting.name for setting in (*script.SETTINGS, *script.RARE)} | {"released"}
        named = step.arguments[step.arguments.index("--only") + 1 :]
        assert len(named) > 2 and set(named) <= known


def test_the_compiler_gets_the_mode_of_its_setting(monkeypatch):
    ours = bounds.Ours(*bounds.read_recipe(options()), CPU)
    modes = []
    for network in (ours.objective.student, ours.objective.teacher):
        monkeypatch.setattr(network, "compile", lambda mode, dynamic: modes.append(mode))
    setting = next(one for one in settings.RARE if one.name == "compiled, CUDA graphs")
    step = settings.step_of(setting, ours, make_batches(2, CPU)[0])
    before = ours.objective.student.quality_head.l2.weight.clone()
    step(make_batches(2, CPU)[0])
    assert modes == ["reduce-overhead"] * 2
    assert not torch.equal(ours.objective.student.quality_head.l2.weight, before)


def test_blocks_that_are_compiled_by_themselves_are_the_residual_ones():
    ours = bounds.Ours(*bounds.read_recipe(argparse.Namespace(device="cpu", network="iresnet18", limit=9)), CPU)
    for network in (ours.objective.student, ours.objective.teacher):
        found = settings.blocks(network)
        assert len(found) == 8 and {type(block).__name__ for block in found} == {"IBasicBlock"}
    plain = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    assert settings.blocks(plain) == [plain]


def test_a_step_that_waits_is_named_and_measured(tmp_path, monkeypatch, capsys):
    def no_waiting(device):
        raise RuntimeError("called a synchronizing CUDA operation")

    monkeypatch.setattr(settings, "waiting_is_an_error", no_waiting)
    rows = figures(settings, tmp_path, "--batches", "2", "--steps", "1", "--only", "ours")
    assert rows["batch 2: ours: WAITS FOR THE DEVICE"] == "called a synchronizing CUDA operation"
    assert rows["batch 2: ours"] > 0


def test_a_setting_that_cannot_be_built_does_not_end_the_others(tmp_path, monkeypatch):
    broken = settings.Setting("broken", ("optimizer.module=torch.optim.Rprop", "optimizer.fused=1"))
    monkeypatch.setattr(settings, "SETTINGS", (broken, settings.Setting("ours")))
    rows = figures(settings, tmp_path, "--batches", "2", "--steps", "1", "--only", "broken", "ours")
    assert rows["broken"].startswith("does not work here: ") and rows["batch 2: ours"] > 0


def options(**more):
    """Return what the scripts read of their command line."""
    return argparse.Namespace(device="cpu", network="compact", limit=9, **more)


def test_costs_of_single_operations_by_hand():
    a, b = torch.ones(2, 3), torch.ones(3, 4)
    assert bounds.watched(lambda: torch.mm(a, b)) == [bounds.Cost("mm", 4 * (6 + 12 + 8), 2 * 2 * 3 * 4, "fp32")]
    assert bounds.watched(lambda: a.t().reshape(6)[1:]) == [bounds.Cost("clone", 4 * 12, 0, "fp32")]  # two views of it
    assert bounds.watched(lambda: a.add_(1)) == [bounds.Cost("add_", 4 * 12, 0, "fp32")]
    halves = a.bfloat16()
    assert bounds.watched(lambda: torch.mm(halves, halves.t())) == [bounds.Cost("mm", 2 * (6 + 6 + 4), 24, "bf16")]
    wide = torch.ones(1, 1).expand(2, 3)
    assert bounds.watched(lambda: a + wide) == [bounds.Cost("add", 4 * (6 + 1 + 6), 0, "fp32")]
    assert bounds.watched(lambda: torch._foreach_mul_([a, b], 2.0)) == [bounds.Cost("_foreach_mul_", 8 * 18, 0, "fp32")]


def test_the_bound_is_that_of_the_slower_of_bytes_and_products():
    rates = bounds.Rates({"fp32": 10.0, "bf16": 100.0}, bytes=2.0)
    assert rates.seconds(bounds.Cost("mm", bytes=4, flops=50, kind="fp32")) == 5
    assert rates.seconds(bounds.Cost("mm", bytes=4, flops=50, kind="bf16")) == 2


def test_the_products_of_a_step_are_those_that_torch_counts(tmp_path):
    works = bounds.works(options(batch=2), CPU)
    for name, work in works.items():
        with FlopCounterMode(display=False) as counter:
            work()
        assert sum(cost.flops for cost in bounds.watched(work)) == counter.get_total_flops() > 0, name


def test_bounds_are_above_what_is_measured_and_shares_add_up(tmp_path):
    rows = figures(bounds, tmp_path, "--batch", "2")
    for what in ("training", "training, cached", "scoring"):
        both = rows[f"{what}: bound, operation by operation"]
        assert both <= min(rows[f"{what}: bound by products alone"], rows[f"{what}: bound by bytes alone"]) * (1 + 1e-9)
        for of in ("of the bound", "of its time"):
            shares = [value for key, value in rows.items() if key.startswith(f"{what}: {of}, ")]
            assert len(shares) == bounds.SHOWN and sum(shares) <= 100 + 1e-6
    assert rows["training, cached: products"] < rows["training: products"]


@pytest.mark.parametrize("first", [2, 90])
@pytest.mark.parametrize("capacity", [0, 1, 2, 3, 17, 100, 1000, 5000])
def test_the_largest_batch_is_found_to_within_a_sixteenth(capacity, first):
    tried = []

    def fits(size):
        tried.append(size)
        return size <= capacity

    found = memory.largest(fits, 4096, first)
    room = min(capacity, 4096)
    assert found <= room and (found >= room - max(1, found / 16) or (found == 0 and capacity < 2))
    assert min(tried) >= 2 and max(tried) <= 4096 and len(tried) < 30


def test_each_card_is_tried_within_its_memory_from_what_a_smaller_one_took(tmp_path, monkeypatch):
    """A GPU of 24 GB with 1 GB taken by its driver; a step takes 100 MB an image, with the teacher's cache 80."""
    room, tried = [0.0], []

    def step(batch):
        tried.append(len(batch.label))
        if len(batch.label) * (100 if batch.reference is None else 80) * 2**20 > room[0] * 24 * memory.GB:
            raise torch.OutOfMemoryError

    given = {"mem_get_info": (23 * memory.GB, 24 * memory.GB), "memory_reserved": 0, "empty_cache": None}
    for name, value in {**given, "synchronize": None}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, _: room.__setitem__(0, share))
    monkeypatch.setattr(memory.gc, "collect", lambda: None)
    ours = memory.Ours(*memory.read_recipe(options()), CPU)
    monkeypatch.setattr(ours, "step", step)
    report = memory.Report("memory", argparse.Namespace())
    memory.report_cards(report, ours, [8, 80], CPU)
    found = {row["what"]: row["value"] for row in report.rows}
    for name, most in {"8 GB": 71, "8 GB, cached": 89, "80 GB": 235, "80 GB, cached": 294}.items():
        value = found[name.replace("GB", "GB: largest batch")]
        assert most * 15 / 16 - 1 <= value <= most
    assert room == [1.0] and tried.count(2) == 2 and tried.count(64) == 2  # none anew for a larger card


def test_memory_kept_for_the_backward_pass_grows_with_the_batch_alone(tmp_path):
    ours = memory.Ours(*memory.read_recipe(options()), CPU)
    kept = [memory.kept_for_backward(ours, make_batches(size, CPU)[0]) for size in (2, 4, 6)]
    assert kept[2] - kept[1] == kept[1] - kept[0] > 0
    rows = figures(memory, tmp_path)
    assert rows["24 GB: no batch can be larger than"] > 2.9 * rows["8 GB: no batch can be larger than"] > 0


def test_no_run_takes_more_steps_than_the_time_of_the_cpu_allowed(tmp_path):
    rows = figures(right, tmp_path, "--batch", "2", "--steps", "5", "--seconds", "0", "--formats", "fp32")
    assert rows["steps of every run"] == 1
    assert rows["cpu, fp32: losses, within 2% of the CPU's"] == 0


@pytest.mark.slow
def test_the_share_of_waiting_for_data_is_that_of_a_real_run(tmp_path):
    few = ("--images", "40", "--batch", "8", "--steps", "4", "--workers", "0")
    rows = figures(loader, tmp_path, *few)
    for what in ("training", "training, cached"):
        share = next(value for key, value in rows.items() if key.startswith(f"{what}: data_share"))
        assert 0 <= share <= 1 and rows[f"{what}: from files"] > 0


@pytest.mark.parametrize(("free", "workers"), [(2**40, 16), (10**9, 10), (0, 1)])
def test_the_loader_takes_no_more_workers_than_the_shared_memory_bears(free, workers, tmp_path, monkeypatch):
    """A worker holds 4 batches of 256 pairs of crops, 77 MB; a fifth of the memory is left."""
    monkeypatch.setattr(loader, "SHARED", tmp_path)
    monkeypatch.setattr(loader.shutil, "disk_usage", lambda path: argparse.Namespace(free=free))
    report = loader.Report("loader", argparse.Namespace())
    assert loader.report_workers(report, 16, 256) == workers
    assert loader.report_workers(report, 0, 256) == 0


def test_the_archive_of_photographs_holds_what_the_table_takes_of_each_person_in_the_folds(tmp_path):
    faces, archive = tmp_path / "given", tmp_path / "packed/faces.tar"
    for person, count in {"A": 6, "B": 2, "Alone": 1, "Untested": 1, "Nobody": 2}.items():
        (faces / "images" / person).mkdir(parents=True)
        for number in range(1, count + 1):
            (faces / f"images/{person}/{person}_{number}.jpg").touch()
    rest = ["landmarks.csv", "labels_lightqnet.csv", "mobilefacenet_y1.pth", "edgeface_xxs.pth"]
    for name in (*rest, "detector.onnx"):
        (faces / name).touch()
    (faces / "folds.csv").write_text("identity,fold\r\nA,0\r\nB,4\r\nAlone,2\r\nUntested,3\r\n", newline="")
    given = {"FACES": str(faces), "YUNET": str(faces / "detector.onnx"), "ARCHIVE": str(archive)}
    command = [ROOT / "examples/faces_gpu.sh", "pack"]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, **given}, check=True, capture_output=True)
    with tarfile.open(archive) as stream:
        names = set(stream.getnames())
    images = {f"images/A/A_{n}.jpg" for n in range(1, 5)} | {f"images/B/B_{n}.jpg" for n in (1, 2)}
    images |= {"images/Alone/Alone_1.jpg"}
    assert names == images | set(rest) | {"folds.csv", "yunet.onnx"}


PYTHON = """#!/bin/bash
case "$*" in
    "-c import torch") exit 0 ;;
    "-c import pydantic") exec {python} -S -c 'import pydantic' 2>/dev/null ;;
    "-m zipfile"*) exec {python} "$@" ;;
    *) echo "ran $*" ;;
esac
"""


def test_what_a_machine_lacks_is_taken_from_the_wheels_beside(tmp_path):
    (tmp_path / "python").write_text(PYTHON.format(python=sys.executable))
    (tmp_path / "python").chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"PYTHON": "./python"}

    def run():
        command = [ROOT / "benchmarks/with_torch.sh", "-m", "benchmarks.suite"]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    lacking = run()
    assert (
        lacking.returncode == 2 and lacking.stderr.startswith("error: ./python has no pydantic") and not lacking.stdout
    )
    (tmp_path / ".wheels").mkdir()
    with zipfile.ZipFile(tmp_path / ".wheels/pydantic-0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("pydantic/__init__.py", "")
    assert run().stdout == "ran -m benchmarks.suite\n"


def test_what_building_the_environment_prints_is_not_taken_for_the_answer(tmp_path):
    (tmp_path / "Makefile").write_text(
        f"venv/.installed:\n\tmkdir -p venv/bin\n\tln -s {sys.executable} venv/bin/python\n\ttouch $@\n"
    )
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\nexit 1\n")
    bare.chmod(0o755)
    given = {**os.environ, "PYTHON": str(bare), "VENV": "venv", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [ROOT / "benchmarks/with_torch.sh", "-c", "print('answer')"]
    done = subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "answer\n"), done.stderr
    assert "mkdir -p venv/bin" in done.stderr
