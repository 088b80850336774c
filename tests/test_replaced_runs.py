"""A run in the folder of an earlier one: an unfinished one stays, a finished one until the new one has weights."""

import logging
from pathlib import Path

import pytest

import train_main
from tests.helpers.resume import LENGTH, assert_same_run, metrics, train
from tests.helpers.training import configs, write_setup
from utils.errors import ConfigError


def test_unfinished_runs_are_not_replaced(tmp_path):
    config = write_setup(tmp_path)
    run = train_main.build(*configs(config), train_main.torch.device("cpu"))
    train_main.begin(run)
    run.step = 5
    run.folder.save_resume(run.state(finished=False))
    with pytest.raises(ConfigError, match=r"unfinished run \(step 5\); go on with base\.resume=auto"):
        train_main.main(["-c", str(config)])
    with pytest.raises(ConfigError, match=r"the run there has base\.seed = 3, this one 4"):
        train_main.main(["-c", str(config), "base.resume=auto", "base.seed=4"])
    with pytest.raises(ConfigError, match=r"optimizer\.group_1\.lr = 0\.05, this one 0\.01"):
        train_main.main(["-c", str(config), "base.resume=auto", "optimizer.group_1.lr=0.01"])
    assert train_main.main(["-c", str(config), "base.resume=auto", "base.save_every=2"]) == 0
    assert train_main.main(["-c", str(config), "base.seed=4"]) == 0  # 0 replaces a finished run


FILES = {
    "config.yaml", "metrics.jsonl", "curves.png", "aikd-best.pth", "aikd-best.json", "aikd-last.pth", "aikd-last.json",
}  # fmt: skip


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name in FILES}


def test_a_finished_run_stays_until_the_new_one_has_weights(tmp_path, caplog):
    """The second run meets a bad image in its first batch."""
    caplog.set_level(logging.INFO, "train")
    config = write_setup(tmp_path)
    out, replace = tmp_path / "run", ("base.seed=4", "base.pretrain=0.6")
    assert train(config) == 0
    old = contents(out)
    assert set(old) == FILES and "replaces" not in caplog.text
    data = train_main.build(*configs(config, "base.seed=4"), train_main.torch.device("cpu")).data
    image = Path(data.train.describe(int(next(data.batches_from(0)).row[0])))
    good = image.read_bytes()
    image.write_bytes(b"no image")
    for _ in range(2):  # the second time there is nothing to set aside
        assert train(config, *replace) == 2
        assert contents(out / "previous") == old and not list(out.glob("*.pth"))
        assert metrics(out) == [] and b"seed: 4" in (out / "config.yaml").read_bytes()
    sentence = f"replaces the finished run in {out}, which stays in {out / 'previous'} until this one has weights"
    assert caplog.text.count(sentence) == 1
    image.write_bytes(good)
    assert train(config, *replace) == 0
    assert {path.name for path in out.iterdir()} == FILES | {"resume.pt"}
    assert contents(out)["aikd-last.pth"] != old["aikd-last.pth"]
    assert train(config, f"base.save_path={tmp_path / 'fresh'}", *replace) == 0
    assert_same_run(out, tmp_path / "fresh")
    assert caplog.text.count("replaces") == 1


def test_a_resumed_run_drops_the_one_it_replaces_with_its_first_weights(tmp_path):
    config = write_setup(tmp_path)
    out, replace = tmp_path / "run", ("base.seed=4", "base.pretrain=0.6")
    assert train(config) == 0
    old = contents(out)
    run = train_main.build(*configs(config, *LENGTH, *replace), train_main.torch.device("cpu"))
    train_main.begin(run)
    train_main.save_resume(run)
    assert contents(out / "previous") == old
    assert train(config, *replace, "base.resume=auto") == 0
    assert not (out / "previous").exists() and (out / "aikd-best.pth").exists()
    assert train(config, f"base.save_path={tmp_path / 'fresh'}", *replace) == 0
    assert_same_run(out, tmp_path / "fresh")


@pytest.mark.parametrize("moved", range(8))
def test_a_kill_while_a_run_is_set_aside_mixes_nothing(tmp_path, moved):
    """Files are moved one by one, in the order of `files`; whatever a kill left, the next start finishes it."""
    run = train_main.build(*configs(write_setup(tmp_path)), train_main.torch.device("cpu"))
    folder, out = run.folder, tmp_path / "run"
    (out / "previous").mkdir(parents=True)
    assert {path.name for path in folder.files} == FILES
    for number, path in enumerate(folder.files):
        (out / "previous" / path.name if number < moved else path).write_text("old")
    if moved == len(FILES):
        (out / "metrics.jsonl").write_text("new")  # a run without weights
    assert folder.start() == (moved < len(FILES))
    assert contents(out / "previous") == dict.fromkeys(FILES, b"old")
    assert set(contents(out)) == {"config.yaml"}


@pytest.mark.parametrize("dropped", range(7))
def test_of_two_earlier_runs_the_later_one_stays(tmp_path, dropped):
    """A kill came between the first weights of a run and the removal of the one it replaced, or in that removal."""
    run = train_main.build(*configs(write_setup(tmp_path)), train_main.torch.device("cpu"))
    folder, out = run.folder, tmp_path / "run"
    (out / "previous").mkdir(parents=True)
    for number, path in enumerate(folder.files):
        if path.name != "curves.png":
            path.write_text("new")
        if number >= dropped:
            (out / "previous" / path.name).write_text("old")
    assert folder.start()
    assert contents(out / "previous") == dict.fromkeys(FILES - {"curves.png"}, b"new")
