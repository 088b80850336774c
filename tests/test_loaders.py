"""Order and transport: hand-made sequences, resuming, sharing among processes, workers that die."""

import gc
import itertools
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.samples import loader as loaders
from data.samples.crops import FaceCrops
from data.samples.datasets import DistillationDataset, IdentityDataset
from data.samples.loader import crop_batches, train_loader, validation_loader
from data.samples.sampler import VALIDATION_EPOCH, EpochSampler, Shard
from data.sources.folder import list_folder
from tests.helpers.faces import SlowCrops, face_index, smooth_image, write_image
from utils.config.sections import CropInputConfig, DecodeConfig, LoaderParams
from utils.config.train import DatasetConfig
from utils.config.train_aikd import StudentCropConfig
from utils.errors import DataError

ROOT = Path(__file__).resolve().parent.parent
WORKERS = [0, 1, 3]


def params(batch_size, shuffle=True, num_workers=0, **values):
    return LoaderParams(batch_size=batch_size, shuffle=shuffle, num_workers=num_workers, **values)


def sequence(rows, batch_size, position=(0, 0), end_epoch=1, **values):
    sampler = EpochSampler(rows, params(batch_size, values.pop("shuffle", True)), values.pop("seed", 5), **values)
    sampler.position, sampler.end_epoch = position, end_epoch
    batches = list(sampler)
    assert len(sampler) == len(batches)
    return batches


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return face_index(tmp_path_factory.mktemp("faces"), 23)


@pytest.fixture(scope="module")
def dataset(index):
    return DistillationDataset(index, 9, StudentCropConfig(radius_px=3), DecodeConfig())


def crops(index):
    cfg = CropInputConfig(loc=index.source.location, input="landmarks")
    return FaceCrops(index.source, cfg, index.landmarks)


def same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        for x, y in zip(a, b, strict=True):
            assert torch.equal(x, y) if torch.is_tensor(x) else x == y or tuple(x) == tuple(y)  # pinned: a list


# ---------------------------------------------------------------- sampler


def test_batches_in_order():
    assert sequence([4, 7, 2, 9, 1], 2, shuffle=False, end_epoch=2) == [
        [(0, 4), (0, 7)],
        [(0, 2), (0, 9)],
        [(1, 4), (1, 7)],
        [(1, 2), (1, 9)],
    ]


def test_the_permutation_comes_from_seed_and_epoch():
    rows = np.arange(100, 110)
    for epoch in (0, 3):
        order = rows[np.random.default_rng([5, epoch]).permutation(10)].tolist()
        batches = sequence(rows, 4, position=(epoch, 0), end_epoch=epoch + 1)
        assert [row for batch in batches for _, row in batch] == order
        assert {e for batch in batches for e, _ in batch} == {epoch}
    assert sequence(rows, 4) != sequence(rows, 4, seed=6)


@pytest.mark.parametrize(
    ("rows", "batch_size", "sizes"), [(9, 4, [4, 4]), (10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 4, [3]), (1, 4, [])]
)
def test_only_a_last_batch_of_one_is_left_out(rows, batch_size, sizes):
    """BatchNorm cannot train on one sample (docs/fidelity.md, row 10)."""
    assert [len(batch) for batch in sequence(np.arange(rows), batch_size)] == sizes


def test_validation_keeps_every_row():
    sampler = EpochSampler(np.arange(9), params(4, shuffle=False), 0)
    sampler.keep_all = True
    assert [[row for _, row in batch] for batch in sampler] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert sampler.steps_per_epoch() == 3


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 17), st.integers(1, 3), st.data())
def test_resuming_anywhere_gives_the_rest(rows, batch_size, epochs, data):
    whole = sequence(np.arange(rows), batch_size, end_epoch=epochs)
    steps = EpochSampler(np.arange(rows), params(batch_size), 5).steps_per_epoch()
    assert len(whole) == steps * epochs
    done = data.draw(st.integers(0, len(whole)))
    position = divmod(done, steps) if steps else (0, 0)
    assert sequence(np.arange(rows), batch_size, position=position, end_epoch=epochs) == whole[done:]


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 6), st.integers(1, 4))
def test_processes_share_the_steps_of_one(rows, per_process, world_size):
    """Joined over the ranks, step by step, the parts are one process's batches of the total size."""
    total = per_process * world_size
    alone = sequence(np.arange(rows), total, end_epoch=2)
    parts = [sequence(np.arange(rows), total, end_epoch=2, shard=Shard(rank, world_size)) for rank in range(world_size)]
    assert len({len(part) for part in parts}) == 1
    joined = [list(itertools.chain.from_iterable(step)) for step in zip(*parts, strict=True)]
    if rows % total >= 2 * world_size or rows % total < 2:
        assert joined == alone
    sizes = [[len(part) for part in step] for step in zip(*parts, strict=True)]
    for step, full in zip(sizes, joined, strict=True):
        assert step == [per_process] * world_size if len(full) == total else min(step) >= 2
        assert max(step) - min(step) <= 1


def test_full_batches_are_whole_batches_r_and_r_plus_n():
    small = sequence(np.arange(12), 3)
    for rank in range(2):
        assert sequence(np.arange(12), 6, shard=Shard(rank, 2)) == small[rank::2]


# ---------------------------------------------------------------- training loader


@pytest.mark.parametrize("workers", WORKERS)
def test_batches_do_not_depend_on_workers(index, dataset, workers):
    loader = train_loader(dataset, np.arange(23), params(5, num_workers=workers), 5)
    found = list(loader.starting_at((0, 0), 2))
    expected = [dataset.__getitems__(keys) for keys in sequence(np.arange(23), 5, end_epoch=2)]
    assert len(found) == 10
    same(found, expected)


@pytest.mark.parametrize("workers", WORKERS)
def test_a_resumed_loader_goes_on(dataset, workers):
    loader = train_loader(dataset, np.arange(23), params(5, num_workers=workers), 5)
    whole = list(loader.starting_at((0, 0), 3))
    resumed = train_loader(dataset, np.arange(23), params(5, num_workers=workers), 5)
    same(list(resumed.starting_at((1, 2), 3)), whole[7:])
    same(list(resumed.starting_at((2, 4), 3)), whole[14:])
    assert list(resumed.starting_at((3, 0), 3)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_leaving_early_and_starting_again(dataset, workers):
    loader = train_loader(dataset, np.arange(23), params(2, num_workers=workers), 5)
    expected = list(loader.starting_at((0, 0), 1))
    for _ in range(3):
        batches = loader.starting_at((0, 0), 50)
        first = next(batches)
        batches.close()
        same([first], expected[:1])
    same(list(loader.starting_at((0, 0), 1)), expected)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


@pytest.mark.parametrize("workers", [0, 2])
def test_fetching_does_not_touch_the_global_random_state(dataset, workers):
    """Dropout draws from it: another worker count or a resumed loader must not shift those draws."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    loader = train_loader(dataset, np.arange(23), params(5, num_workers=workers), 5)
    for _ in range(2):
        list(loader.starting_at((0, 0), 1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_validation_is_the_same_every_time(dataset, workers):
    loader = validation_loader(dataset, np.arange(0, 23, 2), params(5, num_workers=workers))
    first, second = list(loader), list(loader)
    assert torch.cat([batch.row for batch in first]).tolist() == list(range(0, 23, 2))
    assert [len(batch.row) for batch in first] == [5, 5, 2]
    same(first, second)
    same(first[:1], [dataset.__getitems__([(VALIDATION_EPOCH, row) for row in (0, 2, 4, 6, 8)])])


def test_validation_ignores_shuffle_and_keeps_a_single_last_image(dataset):
    loader = validation_loader(dataset, [8, 3, 5], params(2, shuffle=True))
    assert [batch.row.tolist() for batch in loader] == [[8, 3], [5]]
    assert len(loader) == loader.steps_per_epoch() == 2


def test_recognition_batches_travel_too(index):
    identities = IdentityDataset(index, 1, True, DecodeConfig())
    expected = [identities.__getitems__(keys) for keys in sequence(np.arange(23), 8)]
    for workers in (0, 2):
        same(list(train_loader(identities, np.arange(23), params(8, num_workers=workers), 5)), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_pinned_batches(dataset, workers):
    loader = train_loader(dataset, np.arange(23), params(5, num_workers=workers, pin_memory=True), 5)
    batches = list(loader)
    assert all(batch.aligned.is_pinned() and batch.label.is_pinned() for batch in batches)
    same(batches, [dataset.__getitems__(keys) for keys in sequence(np.arange(23), 5)])


# ---------------------------------------------------------------- broken images, dying workers


@pytest.fixture
def broken(tmp_path):
    index = face_index(tmp_path, 8)
    for row in (1, 2, 3, 4, 5, 6, 7):
        Path(index.source.describe(row)).write_bytes(b"")
    return index


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_one_sentence_from_any_worker(broken, workers):
    dataset = DistillationDataset(broken, 1, None, DatasetConfig(image_location=broken.source.location))
    loader = train_loader(dataset, [0, 1, 0], params(3, shuffle=False, num_workers=workers), 5)
    with pytest.raises(DataError) as caught:
        list(loader)
    assert str(caught.value).startswith(f"{broken.source.describe(1)}: empty file; repair it under its name")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_too_few_readable_images_in_a_batch(broken, workers):
    cfg = DatasetConfig(image_location=broken.source.location, on_missing="skip")
    dataset = DistillationDataset(broken, 1, None, cfg)
    loader = train_loader(dataset, [0, 0, 1, 1, 2, 0], params(3, shuffle=False, num_workers=workers), 5)
    batches = iter(loader)
    assert next(batches).failures == ((1, "empty file"),)
    with pytest.raises(DataError, match="less than two to train on"):
        next(batches)
    kept = list(validation_loader(dataset, [0, 1, 2], params(2)))
    assert [len(batch.row) for batch in kept] == [1, 0]


def test_an_image_left_out_is_named_once_and_the_rest_of_many_counted(broken, caplog, monkeypatch):
    cfg = DatasetConfig(image_location=broken.source.location, on_missing="skip")
    dataset = DistillationDataset(broken, 1, None, cfg)
    loader = validation_loader(dataset, [0, 1, 2], params(3))
    assert len(list(loader)) == len(list(loader)) == 1
    assert [record.message for record in caplog.records] == [
        f"{broken.source.describe(row)}: empty file; left out" for row in (1, 2)
    ]
    monkeypatch.setattr(loaders, "NAMED", 1)
    caplog.clear()
    assert len(list(validation_loader(dataset, [0, 1, 2], params(3)))) == 1
    assert [record.message for record in caplog.records] == [
        f"{broken.source.describe(1)}: empty file; left out",
        "2 images have been left out so far; no longer named one by one",
    ]


def test_a_killed_worker_is_one_clear_error(index):
    cfg = CropInputConfig(loc=index.source.location, input="landmarks")
    gc.collect()
    assert multiprocessing.active_children() == []
    batches = crop_batches(SlowCrops(index.source, cfg, index.landmarks), 1, num_workers=2)
    next(batches)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    time.sleep(0.3)  # torch's own handler would raise here, in the middle of the consumer's work
    started = time.monotonic()
    with pytest.raises(DataError, match="decoding worker died"):
        list(batches)
    assert time.monotonic() - started < 20


def test_an_error_of_the_code_keeps_its_traceback(index):
    class Wrong(FaceCrops):
        def __getitems__(self, wanted):
            raise ZeroDivisionError("a bug")

    cfg = CropInputConfig(loc=index.source.location, input="landmarks")
    for workers in (0, 1):
        with pytest.raises(ZeroDivisionError, match="a bug"):
            list(crop_batches(Wrong(index.source, cfg, index.landmarks), 4, workers))


def test_interrupting_prints_one_line_only(index, tmp_path):
    """Ctrl-C reaches the whole process group; only the main process may speak."""
    program = textwrap.dedent("""
        import signal, sys, time
        from pathlib import Path
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
        from data.samples.loader import crop_batches
        from tests.helpers.faces import SlowCrops, face_index, smooth_image, write_image
        from utils.config.sections import CropInputConfig
        index = face_index(Path(sys.argv[1]), 200)
        cfg = CropInputConfig(loc=index.source.location, input="landmarks")
        try:
            for batch in crop_batches(SlowCrops(index.source, cfg, index.landmarks), 1, int(sys.argv[2])):
                print("go", flush=True)
        except KeyboardInterrupt:
            sys.exit("stopped")
    """)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / workers), workers],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        for workers in ("0", "2")
    ]
    for child in children:
        assert child.stdout.readline() == b"go\n"
        os.killpg(child.pid, signal.SIGINT)
    for child in children:
        _, err = child.communicate(timeout=60)
        assert err == b"stopped\n"
        assert child.returncode == 1


def test_workers_leave_the_threads_of_opencv_alone(index):
    class Asking(FaceCrops):
        def __getitems__(self, wanted):
            return super().__getitems__(wanted)._replace(failures=((0, str(cv2.getNumThreads())),))

    cfg = CropInputConfig(loc=index.source.location, input="landmarks")
    (batch,) = crop_batches(Asking(index.source, cfg, index.landmarks), 50, num_workers=1)
    assert int(batch.failures[0][1]) <= 1


@pytest.mark.parametrize("workers", [0, 3])
def test_nothing_is_printed_about_odd_files_or_many_workers(tmp_path, workers, capfd, recwarn):
    image = smooth_image(np.random.default_rng(0), 200, 200)
    write_image(tmp_path / "a.jpg", image)
    data = bytearray((tmp_path / "a.jpg").read_bytes())
    data[-300:-250] = b"\x5a" * 50
    (tmp_path / "a.jpg").write_bytes(data)
    (batch,) = crop_batches(FaceCrops(list_folder(tmp_path), CropInputConfig(loc=str(tmp_path))), 4, workers)
    assert batch.rows == [] and [row for row, _ in batch.failures] == [0]  # the decoder's warning is the reason
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


# ---------------------------------------------------------------- scoring


@pytest.mark.parametrize("workers", WORKERS)
def test_crops_come_in_order(index, workers):
    batches = list(crop_batches(crops(index), 5, workers))
    assert [batch.rows for batch in batches] == [list(range(at, min(at + 5, 23))) for at in range(0, 23, 5)]
    same(batches, [crops(index).__getitems__(batch.rows) for batch in batches])


@pytest.mark.parametrize("count", [0, 1, 22])
def test_any_number_of_crops(index, count):
    cfg = CropInputConfig(loc=index.source.location, input="landmarks")
    some = FaceCrops(index.source, cfg, index.landmarks).take(np.arange(count))
    for workers in (0, 2):
        batches = list(crop_batches(some, 7, workers))
        assert sum(len(batch.rows) for batch in batches) == count
        assert [len(batch.images) for batch in batches] == [7] * (count // 7) + [count % 7] * (count % 7 > 0)


def test_a_folder_of_broken_images_gives_failures_only(broken):
    cfg = CropInputConfig(loc=broken.source.location)
    for workers in (0, 2):
        batches = list(crop_batches(FaceCrops(broken.source, cfg).take(np.arange(1, 8)), 4, workers))
        assert [len(batch.images) for batch in batches] == [0, 0]
        failures = [failure for batch in batches for failure in batch.failures]
        assert failures == [(row, "empty file") for row in range(7)]


def test_decoding_runs_ahead_of_the_consumer(index):
    seen = []

    class Counting(FaceCrops):
        def __getitems__(self, wanted):
            seen.append(wanted[0])
            return super().__getitems__(wanted)

    cfg = CropInputConfig(loc=index.source.location, input="landmarks")
    batches = crop_batches(Counting(index.source, cfg, index.landmarks), 1)
    next(batches)
    deadline = time.monotonic() + 60
    while len(seen) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)  # without a bound it would go on
    assert 3 <= len(seen) <= 8
    batches.close()


def test_loaders_can_be_pickled_for_spawned_workers(dataset):
    assert pickle.loads(pickle.dumps(dataset)).index.names[0] == dataset.index.names[0]
