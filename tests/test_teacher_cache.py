"""The teacher's embeddings on disk: the same losses, computed once, told apart by all that decides them."""

import csv
import itertools
import logging
import os
import pickle
import shutil
import zlib

import cv2
import numpy as np
import pytest
import torch
import yaml

import train_main
from data.samples.sampler import VALIDATION_EPOCH
from data.samples.teacher_cache import DONE, NO_CROP, TO_DO
from model.compact import CompactNet
from model.frozen.network import normalise
from tests.helpers.faces import write_image
from tests.helpers.processes import finished_on_disk
from tests.helpers.training import TINY, observed_run, tensors, write_setup
from utils.errors import ConfigError, DataError
from utils.training.run_log import read_metrics

WITHIN = 5e-4
"""Rounding a vector of length 1 to fp16 moves it by less than 2^-11, and a cosine by no more."""


SLOW = ("optimizer.group_1.lr=0.001", "optimizer.group_2.lr=0.001")
"""Rates at which a rounding error stays one."""


def make_run(config, *overrides):
    return observed_run(config, "base.epochs=1", *overrides)


def train(config, *overrides):
    run = make_run(config, *overrides)
    train_main.fit(run)
    return run


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    config = write_setup(folder, count=24)
    cached = train(config, f"model.teacher_cache={folder / 'kept'}", f"base.save_path={folder / 'cached'}", *SLOW)
    return config, folder, cached


def again(setup, *overrides):
    config, folder, _ = setup
    return train(config, f"model.teacher_cache={folder / 'kept'}", f"base.save_path={folder / 'again'}", *overrides)


def test_losses_are_those_without_a_cache(setup):
    config, folder, cached = setup
    live = train(config, f"base.save_path={folder / 'live'}", *SLOW)
    assert sum(cached.seen) == 24 and sum(live.seen) > 24
    pairs = list(zip(*(read_metrics(folder / name / "metrics.jsonl") for name in ("cached", "live")), strict=True))
    assert len(pairs) > 5
    for first, second in pairs:
        assert list(first) == list(second)
        for key in first:
            if "consistency" in key or "quality" in key:
                assert first[key] == pytest.approx(second[key], abs=WITHIN), key
    weights = [tensors(folder / name / "aikd-last.pth") for name in ("cached", "live")]
    for key, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][key], atol=1e-4, rtol=1e-3)


def test_it_holds_the_teacher_s_embeddings_of_aligned_crops(setup):
    _, folder, cached = setup
    cache = cached.data.cache
    assert (cache.state == DONE).all() and cache.embeddings.shape == (24, 8) and cache.embeddings.dtype == np.float16
    teacher = CompactNet(**TINY).eval()
    teacher.load_state_dict(tensors(folder / "backbone.pth"))
    crops = next(cache.batches(np.arange(24), cached.cfg.dataloader.val.params.model_copy(update={"batch_size": 24})))
    assert crops.row.tolist() == list(range(24)) and torch.equal(crops.aligned, crops.misaligned)
    with torch.no_grad():
        wanted = torch.nn.functional.normalize(teacher(normalise(crops.aligned, cached.contract)))
    np.testing.assert_allclose(cache.embeddings, wanted.numpy(), atol=2**-11)


def test_other_labels_use_the_same_embeddings(setup):
    _, folder, cached = setup
    with open(folder / "labels.csv") as stream:
        rows = list(csv.reader(stream))
    with open(folder / "other.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([name, 1 - float(label) ** 2] for name, label in rows)
    run = again(setup, f"dataset.quality_location={folder / 'other.csv'}")
    assert run.seen == [] and run.data.cache.path == cached.data.cache.path


def test_another_teacher_or_other_landmarks_are_another_cache(setup):
    _, folder, cached = setup
    model = yaml.safe_load((folder / "model_config.yaml").read_text())
    torch.manual_seed(99)
    torch.save(CompactNet(**TINY).state_dict(), folder / "other.pth")
    model["teacher"] = {**model["features"], "weights": str(folder / "other.pth")}
    (folder / "other_teacher.yaml").write_text(yaml.safe_dump(model))
    model = {**model, "teacher": None, "transform": {
        "trans_1": {"module": "Resize", "params": {"size": 112}}, "trans_2": {"module": "ToTensor"},
        "trans_3": {"module": "Normalize", "params": {"mean": 0.4, "std": 0.5}},
    }}  # fmt: skip
    (folder / "other_contract.yaml").write_text(yaml.safe_dump(model))
    lines = (folder / "landmarks.csv").read_text().splitlines()
    name, x, rest = lines[3].split(",", 2)
    (folder / "moved.csv").write_text("\n".join([*lines[:3], f"{name},{float(x) + 1},{rest}", *lines[4:]]))
    paths = {cached.data.cache.path}
    for override in (
        f"model.config={folder / 'other_teacher.yaml'}",
        f"model.config={folder / 'other_contract.yaml'}",
        f"dataset.landms_location={folder / 'moved.csv'}",
    ):
        run = again(setup, override, "base.max_steps=1")
        assert sum(run.seen) == 24
        paths.add(run.data.cache.path)
    assert len(paths) == 4 and len({path.name for path in paths}) == 4


def test_only_what_is_missing_is_embedded(setup):
    cache = setup[2].data.cache
    whole = cache.embeddings.copy()
    cache.state[5:9], cache.embeddings[5:9] = TO_DO, 0
    cache.embeddings[0] = -whole[0]
    kept = cache.sums[0]
    cache.sums[0] = zlib.crc32(cache.embeddings[0].data, DONE)
    run = again(setup)
    assert sum(run.seen) == 4
    assert (cache.embeddings[1:] == whole[1:]).all() and (cache.embeddings[0] == -whole[0]).all()
    cache.embeddings[0], cache.sums[0] = whole[0], kept


@pytest.mark.parametrize("damage", ["embedding", "state", "sum"])
def test_damaged_embeddings_are_made_anew(setup, caplog, damage):
    _, folder, cached = setup
    cache, whole = cached.data.cache, cached.data.cache.embeddings.copy()
    if damage == "embedding":
        cache.embeddings.view(np.uint8)[3, 5] ^= 4
    elif damage == "state":
        cache.state[3] = NO_CROP
    else:
        cache.sums[3] += 1
    run = again(setup, f"base.save_path={folder / damage}", "base.max_steps=1")
    assert sum(run.seen) == 1 and "1 embeddings are damaged and are made anew" in caplog.text
    assert (cache.embeddings == whole).all() and (cache.state == DONE).all()


def test_a_damaged_entry_is_filled_anew(setup, caplog):
    _, folder, cached = setup
    shutil.copytree(folder / "kept", folder / "damaged")
    (folder / "damaged" / cached.data.cache.path.name / "state.u8").write_bytes(b"cut off")
    run = again(setup, f"model.teacher_cache={folder / 'damaged'}", "base.max_steps=1")
    assert sum(run.seen) == 24 and "state.u8 has another size) and is made anew" in caplog.text


def test_aligned_copies_under_the_same_names_have_caches_of_their_own(setup, caplog):
    """Same names, same (template) landmarks, other pixels: the teacher's answers differ, and the log says why."""
    _, folder, _ = setup
    caplog.set_level(logging.INFO, "utils.store")
    copies = {name: folder / name / "images" for name in ("one", "two")}
    names = [row.split(",")[0] for row in (folder / "labels.csv").read_text().splitlines()]
    rng = np.random.default_rng(0)
    for root, name in itertools.product(copies.values(), names):
        write_image(root / name, cv2.resize(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8), (112, 112)))
    options = f"dataset.quality_location={folder / 'labels.csv'}", "dataset.landms_location=template"
    runs = {
        name: again(setup, f"dataset.image_location={root}", *options, "base.max_steps=1")
        for name, root in copies.items()
    }
    caches = [run.data.cache for run in runs.values()]
    assert [sum(run.seen) for run in runs.values()] == [24, 24] and caches[0].path != caches[1].path
    for cache in caches:
        batch = next(cache.batches(np.arange(24), runs["one"].cfg.dataloader.val.params))
        with torch.no_grad():
            wanted = runs["one"].objective.teacher(normalise(batch.aligned, runs["one"].contract)).numpy()
        kept = cache.embeddings[batch.row.numpy()].astype(np.float32)
        cosine = (kept * wanted).sum(1) / np.linalg.norm(wanted, axis=1)
        assert cosine.min() > 1 - WITHIN
    assert f"{caches[0].path}: not used, it was made from something else: image_sizes_and_times" in caplog.text
    moved = (folder / "two").rename(folder / "moved") / "images"
    run = again(setup, f"dataset.image_location={moved}", *options, "base.max_steps=1")
    assert run.seen == [] and run.data.cache.path == caches[1].path, "where the files lie does not matter"
    touched = next(moved.rglob("*.jpg"))
    os.utime(touched, ns=(0, touched.stat().st_mtime_ns + 1))
    assert sum(again(setup, f"dataset.image_location={moved}", *options, "base.max_steps=1").seen) == 24


def test_training_batches_leave_the_aligned_crop_out(setup):
    config, _, cached = setup
    data, live = cached.data, make_run(config).data
    for position in ((0, 0), (0, 3)):
        batch, wanted = (next(each.train.starting_at(position, 1)) for each in (data, live))
        assert torch.equal(batch.misaligned, wanted.misaligned) and torch.equal(batch.row, wanted.row)
        assert torch.equal(batch.reference, torch.from_numpy(data.cache.embeddings[batch.row.numpy()]))
        assert batch.aligned.shape[0] == 0 and wanted.reference is None
    batch, wanted = (next(iter(each.validation_batches())) for each in (data, live))
    assert torch.equal(batch.aligned, wanted.aligned) and torch.equal(batch.misaligned, wanted.misaligned)
    assert len(batch.reference) == len(batch.row)
    copy = pickle.loads(pickle.dumps(data.validation.dataset))
    assert torch.equal(copy[VALIDATION_EPOCH, 4].reference[0], torch.from_numpy(data.cache.embeddings[4]))


def test_what_lies_outside_an_image_is_shown_as_without_a_cache(setup):
    far = ("dataset.perturbation.radius_px=20", "base.max_steps=1")
    reflected = (*far, "dataset.perturbation.border=reflect")
    runs = [again(setup, *reflected), make_run(setup[0], *reflected), make_run(setup[0], *far)]
    batch, wanted, black = (next(run.data.train.starting_at((0, 0), 1)) for run in runs)
    assert torch.equal(batch.misaligned, wanted.misaligned) and torch.equal(wanted.aligned, black.aligned)
    assert (black.misaligned == 0).sum() > 10 * (wanted.misaligned == 0).sum()


def test_without_misalignment_the_student_sees_the_aligned_crop(setup):
    run = again(setup, "dataset.misalign=0", "base.max_steps=1")
    batch = next(run.data.train.starting_at((0, 0), 1))
    aligned = next(run.data.cache.batches(np.sort(batch.row.numpy()), run.cfg.dataloader.val.params))
    assert torch.equal(batch.misaligned[batch.row.argsort()], aligned.aligned)


def test_unreadable_images_are_remembered(tmp_path):
    config = write_setup(tmp_path, count=24)
    image = sorted((tmp_path / "images").rglob("*.jpg"))[2]
    image.write_bytes(b"no image")
    with pytest.raises(DataError, match=image.name):
        train(config, f"model.teacher_cache={tmp_path / 'kept'}")
    run = train(config, f"model.teacher_cache={tmp_path / 'kept'}", "dataset.on_missing=skip", "base.resume=auto")
    assert (run.data.cache.state == NO_CROP).sum() == 1 and (run.data.cache.state == DONE).sum() == 23
    assert sum(train(config, f"model.teacher_cache={tmp_path / 'kept'}", "dataset.on_missing=skip").seen) == 0


def test_mistakes(tmp_path, setup):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"model\.teacher_cache"):
        train(setup[0], f"base.save_path={tmp_path / 'run'}", f"model.teacher_cache={tmp_path / 'file' / 'x'}")
    with pytest.raises(ConfigError, match=r"unknown key 'model\.teacher_cache' with base\.method: cosface, .* aikd"):
        make_run(
            setup[0], "base.method=cosface", "loss.recognition={module: model.margins.CosFaceHead}",
            "dataset.quality_location=null", f"model.teacher_cache={tmp_path}",
        )  # fmt: skip


def test_a_disk_that_is_too_small_is_one_sentence(tmp_path):
    """A file with holes would be mapped, and the process would die of SIGBUS at the first store."""
    config = write_setup(tmp_path, count=24)
    kept = tmp_path / "kept"
    code, said = finished_on_disk("size=4096", kept, "train_main.py", "-c", config, f"model.teacher_cache={kept}")
    assert code == 2, said
    assert said.count("\n") == 1 and "No space left on device" in said
    assert f"error: {kept}/teacher-" in said and "model.teacher_cache" in said
