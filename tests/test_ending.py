"""How commands end before their end: SIGTERM at any time, a closed stderr, a kill within a write, a removed folder."""

import functools
import shutil
import signal

import pytest
import torch

import evaluate
import inference
import label
import prepare
from tests.helpers.commands import copies, evaluation, labels, landmarks, people, scores, written
from tests.helpers.processes import at_call, close_errors, finished, finished_in_two, send_family, send_self
from tests.helpers.training import same_bytes, tensors, write_setup
from utils import cli

MAINS = {"label.py": label, "prepare.py": prepare, "evaluate.py": evaluate, "inference.py": inference}


MOMENTS = {
    "labels": (labels, "jobs.journal:Journal.append", 3, ("labels.csv", "labels.pkl")),
    "scores": (scores, "jobs.journal:Journal.append", 3, ("quality-scores.csv", "failures.csv")),
    "landmarks": (landmarks, "jobs.journal:Journal.append", 5, ("landmarks.csv",)),
    "copies": (copies, "jobs.degrading.folder:DegradingRun.__call__", 3, ("metadata.csv", "landmarks.csv")),
    "people": (people, "synthetic.population:_render_chunk", 2, ("train/metadata.csv", "train/landmarks.csv")),
    "a view": (evaluation, "evaluation.protocol.embeddings:Recogniser.__call__", 2, ("pauc.csv", "edc.csv")),
    "another view": (evaluation, "evaluation.protocol.embeddings:Recogniser.__call__", 5, ("pauc.csv", "edc.csv")),
    "tables": (evaluation, "evaluation.report.csv_files:write_csv", 2, ("pauc.csv", "edc.csv")),
}
"""What runs, and behind which call of which function SIGTERM comes."""


def in_this_process(script, *arguments):
    return cli.run(lambda: MAINS[script].main(list(map(str, arguments))))


@pytest.mark.parametrize("name", MOMENTS)
def test_sigterm_is_a_sentence_and_the_work_goes_on_later(tmp_path, name):
    make, where, number, results = MOMENTS[name]
    command = written(tmp_path, make)
    assert in_this_process(*command, f"base.save_path={tmp_path / 'whole'}") == 0
    out = f"base.save_path={tmp_path / 'out'}"
    first = functools.partial(at_call, number, where, functools.partial(send_self, signal.SIGTERM))
    code, said = finished(*command, out, first=first)
    assert (code, said.splitlines()[-1]) == (143, "ended by SIGTERM: what was finished is on disk; run again"), said
    assert "Traceback" not in said
    assert not any((tmp_path / "out" / result).exists() for result in results) or name == "tables"
    assert in_this_process(*command, out) == 0
    for result in results:
        assert (tmp_path / "out" / result).read_bytes() == (tmp_path / "whole" / result).read_bytes()
    assert not list(tmp_path.rglob(".*"))


def test_sigterm_to_a_run_and_its_workers_ends_it_behind_a_step(tmp_path):
    config = write_setup(tmp_path, count=20)
    arguments = ("train_main.py", "-c", config, "base.resume=auto", "dataloader.train.params.num_workers=2")
    assert finished(*arguments, f"base.save_path={tmp_path / 'whole'}") == (0, "")
    family = functools.partial(send_family, signal.SIGTERM)
    first = functools.partial(at_call, 3, "utils.training.optim:set_lr", family)
    assert finished(*arguments, first=first) == (
        143, f"ended by SIGTERM: step 3 of 8 is in {tmp_path}/run/resume.pt; go on with base.resume=auto\n",
    )  # fmt: skip
    assert finished(*arguments) == (0, "")
    assert same_bytes(tensors(tmp_path / "run/aikd-last.pth"), tensors(tmp_path / "whole/aikd-last.pth"))


@pytest.mark.parametrize("kind", ["closed", "pipe", "full"])
def test_a_stderr_that_is_gone_ends_no_run(tmp_path, kind):
    command = written(tmp_path, scores)
    first = functools.partial(close_errors, kind)
    for verbose in (0, 1):
        out = tmp_path / f"out{verbose}"
        assert finished(*command, f"base.save_path={out}", f"base.verbose={verbose}", first=first) == (0, "")
        assert len((out / "quality-scores.csv").read_text().splitlines()) == 13
    assert finished(*command, "dataset.loc=nowhere", first=first) == (2, "")


def test_training_outlives_its_stderr(tmp_path):
    config = write_setup(tmp_path, count=12)
    first = functools.partial(close_errors, "pipe")
    assert finished("train_main.py", "-c", config, "base.epochs=1", "base.verbose=1", first=first) == (0, "")
    assert (tmp_path / "run/aikd-best.pth").exists()


@pytest.mark.parametrize(("where", "number"), [("numpy:savez", 1), ("os:fsync", 1), ("os:fsync", 3)])
def test_what_a_killed_evaluation_was_writing_is_removed_by_the_next(tmp_path, where, number):
    command = written(tmp_path, evaluation)
    out = f"base.save_path={tmp_path / 'out'}"
    kill = functools.partial(at_call, number, where, functools.partial(send_self, signal.SIGKILL))
    code, _ = finished(*command, out, first=kill)
    assert code == -signal.SIGKILL
    assert list((tmp_path / "out").rglob(".*"))
    assert in_this_process(*command, out) == 0
    assert not list((tmp_path / "out").rglob(".*"))


@pytest.mark.parametrize("number", [1, 3])
def test_a_training_folder_that_is_removed_is_one_sentence(tmp_path, number):
    config = write_setup(tmp_path, count=20)
    gone = functools.partial(shutil.rmtree, tmp_path / "run")
    first = functools.partial(at_call, number, "utils.training.run_log:RunLog.scalars", gone)
    code, said = finished("train_main.py", "-c", config, first=first)
    assert (code, said) == (
        2, f"error: {tmp_path}/run: the folder was removed while the run writes there; start the run again\n",
    )  # fmt: skip
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_ends_both_at_the_same_step(tmp_path):
    """They agree where a line is logged, every second step; the resumed run is the uninterrupted one."""
    config = write_setup(tmp_path, count=40, log_every=2)
    arguments = ("train_main.py", "-c", config, "base.resume=auto")
    codes, said = finished_in_two(*arguments, f"base.save_path={tmp_path / 'whole'}")
    assert codes == [0, 0], said
    asked = functools.partial(send_self, signal.SIGTERM)
    second = functools.partial(at_call, 5, "utils.training.optim:set_lr", asked)
    codes, said = finished_in_two(*arguments, second=second)
    assert codes == [143, 143], said
    step = torch.load(tmp_path / "run/resume.pt", weights_only=True)["step"]
    assert step % 2 == 0
    assert set(said.splitlines()) == {
        f"ended by SIGTERM: step {step} of 16 is in {tmp_path}/run/resume.pt; go on with base.resume=auto"
    }
    codes, said = finished_in_two(*arguments)
    assert codes == [0, 0], said
    for name in ("aikd-last.pth", "aikd-best.pth"):
        assert same_bytes(tensors(tmp_path / "run" / name), tensors(tmp_path / "whole" / name)), name
