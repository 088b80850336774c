"""data/samples/loader.py: the same batches from any number of workers, resumed, repeated and left early."""

import pickle
import threading
import time

import numpy as np
import pytest
import torch

from data.samples.crops import FaceCrops
from data.samples.datasets import DistillationDataset, IdentityDataset
from data.samples.loader import crop_batches, train_loader, validation_loader
from data.samples.sampler import VALIDATION_EPOCH
from tests.helpers.faces import face_index
from tests.helpers.loading import params, sequence
from utils.config.sections import CropInputConfig, DecodeConfig
from utils.config.train_aikd import StudentCropConfig

WORKERS = [0, 1, 3]


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
