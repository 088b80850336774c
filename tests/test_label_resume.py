"""label.py: the same files after a kill, in two processes and after one of them died; another request starts anew."""

import json
from pathlib import Path

import pytest
import torch

import label
from tests.helpers.labelling import FAST, labels_of, run, write_label_setup
from tests.helpers.processes import APPEND, finished_in_two, killed, last_killed
from tests.helpers.training import write_faces


@pytest.fixture
def setup(tmp_path) -> Path:
    return write_label_setup(tmp_path)


def command(folder: Path, source: str, out: str, *overrides: str) -> list[str]:
    return [
        *("label.py", "-c", str(folder / "label_config.yaml"), f"source.name={source}", *FAST),
        *(f"base.save_path={folder / out}", "dataloader.params.batch_size=1", "source.rows_per_pass=2", *overrides),
    ]


@pytest.mark.parametrize("source", ["faceqan", "sdd_fiqa"])
def test_killed_and_resumed_gives_the_same_files(setup, source):
    write_faces(setup, 60)
    assert label.main(command(setup, source, "whole")[1:]) == 0
    killed(3, APPEND, *command(setup, source, "halves"))
    assert (setup / "halves/partial/0.jsonl").read_bytes().count(b"\n") == 3
    assert not (setup / "halves" / "labels.csv").exists()
    assert label.main(command(setup, source, "halves")[1:]) == 0
    for name in ("labels.csv", "labels.pkl", "failures.csv"):
        assert (setup / "halves" / name).read_bytes() == (setup / "whole" / name).read_bytes()
    session = json.loads((setup / "halves" / "run.json").read_text())["last_session"]
    assert 0 < session["images"] <= 60 - 3


@pytest.mark.slow
def test_two_processes_share_the_work(setup):
    assert label.main(command(setup, "sdd_fiqa", "one")[1:]) == 0
    codes, said = finished_in_two(*command(setup, "sdd_fiqa", "two"))
    assert codes == [0, 0], said
    assert (setup / "two" / "labels.csv").read_bytes() == (setup / "one" / "labels.csv").read_bytes()
    assert json.loads((setup / "two" / "run.json").read_text())["processes"] == 2


@pytest.mark.slow
def test_a_dead_process_leaves_a_run_that_goes_on(setup):
    """SDD-FIQA compares all images in the end: the embeddings of the dead process have to be there too."""
    write_faces(setup, 60)
    assert label.main(command(setup, "sdd_fiqa", "whole")[1:]) == 0
    last_killed(3, APPEND, *command(setup, "sdd_fiqa", "halves"), threads=torch.get_num_threads())
    assert not (setup / "halves/labels.csv").exists()
    assert label.main(command(setup, "sdd_fiqa", "halves")[1:]) == 0
    assert (setup / "halves/labels.csv").read_bytes() == (setup / "whole/labels.csv").read_bytes()
    assert 0 < json.loads((setup / "halves/run.json").read_text())["last_session"]["images"] < 60


def test_another_request_starts_anew(setup):
    assert run(setup, "ser_fiq") == 0
    first = labels_of(setup)
    assert run(setup, "ser_fiq", "base.seed=4") == 0
    assert labels_of(setup) != first
    requests = json.loads((setup / "out" / "run.json").read_text())["request"]
    assert requests["source"]["dropout"] == {"rate": 0.3, "before": None} and requests["source"]["passes"] == 5


@pytest.mark.parametrize(("source", "kind"), [("ser_fiq", "cpu"), ("faceqan", "cpu"), ("sdd_fiqa", None)])
def test_a_run_goes_on_only_on_a_device_that_draws_the_same_numbers(setup, source, kind):
    assert run(setup, source) == 0
    assert json.loads((setup / "out" / "run.json").read_text())["request"]["draws"] == kind
