"""Exact resume: kill a run at any moment, go on, and the bytes are those of the uninterrupted run (CPU)."""

import os
import random
import signal
import time
from itertools import islice
from pathlib import Path

import pytest
import torch
import yaml

import train_main
from tests.helpers.processes import forkserver
from tests.helpers.resume import LENGTH, assert_same_run, metrics, train
from tests.helpers.training import configs, run_script, same_bytes, tensors, write_setup
from utils.errors import ConfigError


def quiet_train(config, *overrides):
    """Run in a child process; a torch thread each, as in the other runs."""
    os._exit(train(config, *overrides))


def start(config, *overrides):
    child = forkserver().Process(target=quiet_train, args=(config, *overrides))
    child.start()
    return child


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    config = write_setup(folder)
    child = start(config, f"base.save_path={folder / 'whole'}")
    child.join()
    assert child.exitcode == 0
    return config, folder


@pytest.mark.parametrize("moment", range(10))
def test_kill_at_any_moment_and_resume(setup, tmp_path, moment):
    config, folder = setup
    rng = random.Random(moment)
    out = tmp_path / "run"
    arguments = (f"base.save_path={out}", "base.resume=auto")
    size = (folder / "whole/metrics.jsonl").stat().st_size
    wanted = rng.uniform(0, 0.95) * size
    child = start(config, *arguments)
    log = out / "metrics.jsonl"
    while child.is_alive() and (not log.exists() or log.stat().st_size < wanted):
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.02))
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    workers = rng.choice([0, 0, 2])
    again = start(config, *arguments, f"dataloader.train.params.num_workers={workers}")
    again.join()
    assert again.exitcode == 0
    assert_same_run(out, folder / "whole")
    left = {path.name for path in out.iterdir()}
    temporary = {name for name in left if name.endswith(".tmp")}
    assert len(temporary) <= 1  # of the killed write; under its own name no file is ever half written
    assert left - temporary == {path.name for path in (folder / "whole").iterdir()}


@pytest.mark.parametrize("lines", [1, 11, 30])
def test_sigterm_ends_at_the_next_step_and_a_resume_gives_the_same_bytes(setup, tmp_path, lines):
    config, folder = setup
    out = tmp_path / "run"
    arguments = (f"base.save_path={out}", "base.resume=auto", "base.save_every=1000")
    child = start(config, *arguments)
    log = out / "metrics.jsonl"
    while child.is_alive() and (not log.exists() or log.read_bytes().count(b"\n") < lines):
        time.sleep(0.001)
    os.kill(child.pid, signal.SIGTERM)
    child.join()
    assert child.exitcode == 143
    steps = [row["step"] for row in metrics(out) if "lr" in row]
    assert torch.load(out / "resume.pt", weights_only=True)["step"] == steps[-1] >= 1
    again = start(config, *arguments)
    again.join()
    assert again.exitcode == 0
    assert_same_run(out, folder / "whole")


def test_worker_count_changes_nothing(setup, tmp_path):
    config, folder = setup
    child = start(config, f"base.save_path={tmp_path / 'run'}", "dataloader.train.params.num_workers=3")
    child.join()
    assert_same_run(tmp_path / "run", folder / "whole")


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_hash_seed_changes_nothing(setup, tmp_path, hash_seed):
    """Point 7 of the defects: the order of training depended on PYTHONHASHSEED."""
    config, folder = setup
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
    done = run_script("train_main.py", "-c", config, *LENGTH, f"base.save_path={tmp_path / 'run'}", env=environment)
    assert done.returncode == 0, done.stderr
    first, second = metrics(tmp_path / "run"), metrics(folder / "whole")
    assert [row["step"] for row in first] == [row["step"] for row in second]
    assert first == second


def test_a_stopped_run_is_prolonged_as_if_it_had_not_stopped(setup, tmp_path):
    """The validation at an early stop leaves no trace in what follows."""
    config, folder = setup
    out = f"base.save_path={tmp_path / 'run'}"
    for stop in ("base.max_steps=7", "base.max_steps=22", "base.max_steps=null"):
        child = start(config, out, stop, "base.resume=auto")
        child.join()
        assert child.exitcode == 0
    assert metrics(tmp_path / "run") == metrics(folder / "whole")
    assert same_bytes(tensors(tmp_path / "run/aikd-last.pth"), tensors(folder / "whole/aikd-last.pth"))


def test_resuming_a_finished_run_changes_nothing(setup, capsys):
    config, folder = setup
    before = {name: (folder / "whole" / name).read_bytes() for name in ("aikd-last.pth", "metrics.jsonl")}
    assert train(config, f"base.save_path={folder / 'whole'}", "base.resume=auto") == 0
    assert before == {name: (folder / "whole" / name).read_bytes() for name in before}


def test_other_labels_are_another_run(tmp_path):
    config = write_setup(tmp_path)
    assert train_main.main(["-c", str(config), "base.max_steps=2"]) == 0
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    lines[3] = lines[3].rpartition(",")[0] + ",0.123"
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(ConfigError, match=r"inputs\.index_sha256"):
        train_main.main(["-c", str(config), "base.resume=auto"])


def test_a_bad_image_stops_a_run_that_goes_on_by_each_way_its_message_names(tmp_path, capsys):
    config = write_setup(tmp_path)
    assert train(config, f"base.save_path={tmp_path / 'whole'}") == 0
    data = train_main.build(*configs(config), train_main.torch.device("cpu")).data
    image = Path(data.train.describe(int(list(islice(data.batches_from(0), 6))[5].row[0])))
    good = image.read_bytes()
    image.write_bytes(b"no image")
    for name in ("skipped", "mended"):
        assert train(config, f"base.save_path={tmp_path / name}") == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {image}: ") and error.count("\n") == 1
        for way in ("dataset.on_missing=skip", "base.resume=auto", "removed", "new run"):
            assert way in error
        assert [row["step"] for row in metrics(tmp_path / name)] == [1, 2, 3, 4, 5]
    assert train(config, f"base.save_path={tmp_path / 'skipped'}", "dataset.on_missing=skip", "base.resume=auto") == 0
    assert train(config, f"base.save_path={tmp_path / 'left_out'}", "dataset.on_missing=skip") == 0
    assert_same_run(tmp_path / "skipped", tmp_path / "left_out")
    whole = metrics(tmp_path / "whole")
    assert metrics(tmp_path / "skipped")[:5] == whole[:5] and metrics(tmp_path / "skipped")[5:] != whole[5:]
    image.write_bytes(good)
    assert train(config, f"base.save_path={tmp_path / 'mended'}", "base.resume=auto") == 0
    assert_same_run(tmp_path / "mended", tmp_path / "whole")
    image.unlink()
    assert train(config, f"base.save_path={tmp_path / 'mended'}", "dataset.on_missing=skip", "base.resume=auto") == 2
    assert "the run there has inputs.images = 40, this one 39" in capsys.readouterr().err


def test_the_configuration_a_run_wrote_starts_the_same_run(setup, tmp_path):
    config, folder = setup
    recorded = folder / "whole/config.yaml"
    child = start(recorded, f"base.save_path={tmp_path / 'run'}")
    child.join()
    assert child.exitcode == 0
    assert_same_run(tmp_path / "run", folder / "whole")
    ours, theirs = (yaml.safe_load((path / "config.yaml").read_text()) for path in (tmp_path / "run", folder / "whole"))
    assert {**ours["base"], "save_path": ""} == {**theirs["base"], "save_path": ""}
    assert {**ours, "base": {}} == {**theirs, "base": {}} and {"model_config", "inputs"} <= ours.keys()
    first, again = (
        train_main.build(*configs(path, *LENGTH), train_main.torch.device("cpu")) for path in (config, recorded)
    )
    assert train_main.ignored(again.cfg, again.precision) == train_main.ignored(first.cfg, first.precision)
    before = metrics(folder / "whole")
    assert train(recorded, "base.resume=auto") == 0 and metrics(folder / "whole") == before


def test_other_keys_stay_unknown_in_a_recorded_configuration(setup, tmp_path, capsys):
    _, folder = setup
    values = yaml.safe_load((folder / "whole/config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**values, "input": {}}))
    assert train(tmp_path / "config.yaml") == 2
    assert "unknown key 'input'" in capsys.readouterr().err
    assert train(folder / "whole/config.yaml", "model_config.head.params.hidden_dim=8") == 2  # a record, not a setting
    assert "unknown key 'model_config'" in capsys.readouterr().err


def test_a_broken_resume_file_is_named(tmp_path):
    config = write_setup(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/resume.pt").write_bytes(b"half")
    from utils.errors import DataError

    with pytest.raises(DataError, match=r"resume\.pt: cannot be read"):
        train_main.main(["-c", str(config), "base.resume=auto"])
