"""Files of our own that were damaged or replaced: made anew, or refused with a sentence; no number changes."""

import contextlib
import io
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import yaml

import label
import prepare
import train_main
from data.index.build import build_index
from data.samples.sampler import ALONE
from data.samples.teacher_cache import DONE, NO_CROP, TeacherCache
from evaluation.protocol.views import ALIGNED
from jobs.journal import Journal
from tests.helpers.detector import face_image, write_bright_cell_detector
from tests.helpers.evaluation import Recorder, crop_pass, open_population, write_population
from tests.helpers.faces import write_image
from tests.helpers.images import write_crops
from tests.helpers.inference import infer
from tests.helpers.inference import write_setup as write_setup_for_scoring
from tests.helpers.training import same_bytes, tensors, write_setup
from utils import cli
from utils.config.sections import LoaderParams
from utils.config.train import DatasetConfig
from utils.errors import UserError


class Kept(NamedTuple):
    """Something of ours that a second run reads again."""

    place: Path
    names: list[str]
    """Files below `place`."""
    again: Callable[[], bool | int]
    """Run again; tell whether the numbers are those of the first run. A refusal is a UserError or exit code 2."""


def kept_entry(cache, pattern, again):
    (entry,) = cache.glob(pattern)
    return Kept(entry, sorted(path.name for path in entry.iterdir()), again)


def faces_of(folder, **more):
    return DatasetConfig(
        image_location=str(folder / "images"), landms_location=str(folder / "landmarks.csv"),
        quality_location=str(folder / "labels.csv"), **more,
    )  # fmt: skip


def index_cache(folder):
    write_setup(folder, count=12)
    section = faces_of(folder, cache=str(folder / "cache"))
    for path in (folder / "images", *(folder / "images").iterdir()):
        os.utime(path, (1e9, 1e9))  # what has just changed is not cached
    whole, _ = build_index(section.model_copy(update={"cache": None}))
    build_index(section)
    assert build_index(section)[0].cache is not None

    def again():
        index, coverage = build_index(section)
        same = (index.landmarks == whole.landmarks).all() and (index.labels == whole.labels).all()
        return bool(same) and list(index.names) == list(whole.names) and coverage.used == 12

    return kept_entry(folder / "cache", "index-*", again)


def crop_cache(folder):
    write_population(folder, identities=2, images=2)
    model, faces = Recorder(), open_population(folder, non_mated=4)
    whole = crop_pass(faces, folder / "cache")(ALIGNED, {"model": model})["model"]

    def again():
        return np.array_equal(
            crop_pass(faces, folder / "cache")(ALIGNED, {"model": model})["model"].values, whole.values
        )

    return kept_entry(folder / "cache", "*model*", again)


def train(config, *overrides):
    return cli.run(lambda: train_main.main(["-c", str(config), "base.epochs=1", *overrides]))


def teacher_cache(folder):
    write_setup(folder, count=12)
    (folder / "images/id_0/0004.jpg").write_bytes(b"no image")
    section = faces_of(folder, on_missing="skip")
    index, _ = build_index(section)

    def embeddings():
        cache = TeacherCache(str(folder / "cache"), index, section, ALONE)
        cache.open({"weights": "some"}, 4)
        for batch in cache.batches(cache.missing(), LoaderParams(batch_size=4)):
            cache.put(batch, torch.stack([batch.row, batch.row**2, -batch.row, torch.ones_like(batch.row)], 1))
        return cache.embeddings[cache.state == DONE].tolist(), cache.state.tolist()

    whole = embeddings()
    assert whole[1] == [DONE] + [NO_CROP] + [DONE] * 10
    return kept_entry(folder / "cache", "*", lambda: embeddings() == whole)


def resume_point(folder):
    config = write_setup(folder, count=12)
    assert train(config, f"base.save_path={folder / 'whole'}") == 0
    assert train(config, "base.max_steps=1") == 0
    run = folder / "run"

    def again():
        code = train(config, "base.resume=auto")
        if code:
            return code
        return same_bytes(tensors(run / "aikd-last.pth"), tensors(folder / "whole/aikd-last.pth"))

    return Kept(run, ["resume.pt", "metrics.jsonl"], again)


@contextlib.contextmanager
def interrupted(after):
    """Let Ctrl-C come once so many lines are in the journal."""
    real, seen = Journal.append, []

    def append(self, line):
        real(self, line)
        seen.append(line)
        if len(seen) == after:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "append", append)
        yield


def unfinished(folder, run, result, lines=2):
    """Leave unfinished work in folder/out and finished one in folder/whole; compare what comes of both."""
    assert run(f"base.save_path={folder / 'whole'}") == 0
    whole = (folder / "whole" / result).read_bytes()
    with interrupted(lines):
        assert run() == 130

    def again():
        code = run()
        return (folder / "out" / result).read_bytes() == whole if code == 0 else code

    return Kept(
        folder / "out",
        ["run.json", *sorted(f"partial/{path.name}" for path in (folder / "out/partial").iterdir())],
        again,
    )


def scoring_journal(folder):
    write_setup_for_scoring(folder)
    write_crops(folder / "faces", 6)
    settings = ("dataloader.params.batch_size=2", "base.verbose=0", "output.page=0")
    return unfinished(folder, lambda *more: infer(folder, *settings, *more), "quality-scores.csv")


def labelling_journal(folder):
    """SDD-FIQA keeps embeddings beside the journal."""
    write_setup(folder, count=12)
    config = {
        "base": {"save_path": str(folder / "out"), "device": "cpu", "verbose": 0},
        "dataset": {"loc": str(folder / "images"), "input": "landmarks", "landmarks": str(folder / "landmarks.csv")},
        "dataloader": {"params": {"batch_size": 3}},
        "model": {"config": "model_config.yaml"},
        "source": {"name": "sdd_fiqa", "sdd_fiqa": {"rounds": 2}},
        "output": {"page": 0},
    }
    (folder / "label.yaml").write_text(yaml.safe_dump(config))
    return unfinished(
        folder, lambda *more: cli.run(lambda: label.main(["-c", str(folder / "label.yaml"), *more])), "labels.csv"
    )


def photographs(folder):
    for number in range(4):
        write_image(folder / f"faces/{number}.png", face_image(96, 80, *[(4, 3)][: number % 3]))
    return write_bright_cell_detector(folder / "bright.onnx")


def detection_journal(folder):
    detector = photographs(folder)
    values = {
        "base": {"task": "landmarks", "save_path": str(folder / "out"), "verbose": 0},
        "dataset": {"image_location": str(folder / "faces")},
        "landmarks": {"detector": str(detector), "score_threshold": 0.9},
    }
    (folder / "prepare.yaml").write_text(yaml.safe_dump(values))
    return unfinished(
        folder,
        lambda *more: cli.run(lambda: prepare.main(["-c", str(folder / "prepare.yaml"), *more])),
        "landmarks.csv",
    )


def found_faces(folder):
    write_setup_for_scoring(folder)
    detector = photographs(folder)
    settings = ("dataset.input=detect", f"dataset.detector=yunet:{detector}", "dataset.yunet.score_threshold=0.9")
    settings += ("base.verbose=0", "output.page=0")
    assert infer(folder, *settings) == 0
    names = ("quality-scores.csv", "failures.csv")
    whole = [(folder / "out" / name).read_bytes() for name in names]

    def again():
        code = infer(folder, *settings)
        return [(folder / "out" / name).read_bytes() for name in names] == whole if code == 0 else code

    return Kept(folder / "out", ["landmarks.csv", "landmarks.json", "run.json"], again)


KINDS = {
    "index cache": index_cache,
    "crop cache": crop_cache,
    "teacher cache": teacher_cache,
    "resume point": resume_point,
    "scores": scoring_journal,
    "labels": labelling_journal,
    "landmarks": detection_journal,
    "found faces": found_faces,
}


def flipped(content, seed):
    """Change one bit of each of three bytes."""
    rng, changed = np.random.default_rng([seed, len(content)]), bytearray(content)
    for at in rng.integers(len(content), size=3 if content else 0):
        changed[at] ^= 1 << rng.integers(8)
    return bytes(changed)


def an_npz(content):
    stream = io.BytesIO()
    np.savez(stream, scores=np.ones(3), names=np.array(["a", "b", "c"]))
    return stream.getvalue()


def a_checkpoint(content):
    stream = io.BytesIO()
    torch.save({"settings": "{}", "step": 1, "finished": False, "log": 0, "best": 0.5, "wandb": None}, stream)
    return stream.getvalue()


DAMAGES = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "one byte less": lambda content: content[:-1],
    "one byte more": lambda content: content + b"\xff",
    "bits 1": lambda content: flipped(content, 1),
    "bits 2": lambda content: flipped(content, 2),
    "bits 3": lambda content: flipped(content, 3),
    "zeros": lambda content: bytes(len(content)),
    "a pickle": lambda content: pickle.dumps({"facts": [1], "step": {}}),
    "an npz": an_npz,
    "a checkpoint": a_checkpoint,
    "JSON": lambda content: b'{"store": 2, "entry": [], "facts": 5, "request": [], "reasons": {"9": 1}, "first": {}}\n',
    "deep JSON": lambda content: b"[" * 100_000,
    "text": lambda content: b"\x80 a, b\n" * 5,
}


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_happens_to_a_file_of_ours(tmp_path, kind, capsys):
    kept = KINDS[kind](tmp_path)
    shutil.copytree(kept.place, tmp_path / "as it was")
    assert kept.names
    for name in kept.names:
        for damage, change in DAMAGES.items():
            (kept.place / name).write_bytes(change((kept.place / name).read_bytes()))
            capsys.readouterr()
            try:
                outcome = kept.again()
            except UserError as error:
                outcome = refused(str(error), name)
            if outcome == UserError.exit_code:
                outcome = refused(capsys.readouterr().err.splitlines()[-1], name)
            assert outcome is True, f"{name}, {damage}: {outcome}"
            shutil.rmtree(kept.place)
            shutil.copytree(tmp_path / "as it was", kept.place)


def refused(said, name):
    assert Path(name).name in said
    assert len(said) <= 400
    return True
