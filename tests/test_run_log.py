"""The log: metrics cut back to the resume point, curves, and Weights & Biases in its offline mode, for real."""

import json

from tests.helpers.processes import finished
from tests.helpers.training import write_setup
from utils.training.run_log import RunLog, draw_curves, read_metrics


def test_a_resumed_log_is_cut_back(tmp_path):
    log = RunLog(tmp_path)
    log.scalars(1, {"quality": 0.5})
    position = log.position
    log.scalars(2, {"quality": float("nan")})
    log.close()
    assert read_metrics(log.path) == [{"step": 1, "quality": 0.5}, {"step": 2, "quality": None}]
    again = RunLog(tmp_path, position)
    again.scalars(2, {"quality": 0.25})
    again.close()
    assert read_metrics(log.path) == [{"step": 1, "quality": 0.5}, {"step": 2, "quality": 0.25}]


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1}) + '\n{"step": 2, "qua')
    assert read_metrics(path) == [{"step": 1}]


def test_curves_are_drawn_at_most_as_often_as_asked(tmp_path):
    log = RunLog(tmp_path)
    log.scalars(1, {"quality": 0.5, "lr": 0.1})
    log.draw_curves(("quality",), at_most_every_s=60)
    first = (tmp_path / "curves.png").stat().st_mtime_ns
    log.draw_curves(("quality",), at_most_every_s=60)
    assert (tmp_path / "curves.png").stat().st_mtime_ns == first
    log.draw_curves(("quality",))
    assert (tmp_path / "curves.png").stat().st_mtime_ns > first
    log.close()
    draw_curves(tmp_path, ("quality", "consistency"))  # a term without a point yet


def test_wandb_offline_logs_every_line(tmp_path):
    config = write_setup(tmp_path)
    arguments = "train_main.py", "-c", config, "base.epochs=1", "wandb={use: 1, project: test}"
    code, said = finished(*arguments, environment={"WANDB_MODE": "offline", "WANDB_SILENT": "true"})
    assert code == 0, said
    runs = list((tmp_path / "run/wandb").glob("offline-run-*/*.wandb"))
    assert len(runs) == 1 and runs[0].stat().st_size > 1000


def test_wandb_is_imported_only_when_used(tmp_path):
    run = "import train_main; train_main.main(sys.argv[1:])"
    (tmp_path / "asking.py").write_text(f"import sys\n{run}\nsys.exit('wandb' in sys.modules)\n")
    assert finished(tmp_path / "asking.py", "-c", write_setup(tmp_path), "base.max_steps=1") == (0, "")
