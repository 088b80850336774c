"""data/samples/loader.py: broken images, errors, Ctrl-C and killed workers are said once, in one line."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.samples import loader as loaders
from data.samples.crops import FaceCrops
from data.samples.datasets import DistillationDataset
from data.samples.loader import crop_batches, train_loader, validation_loader
from data.sources.folder import list_folder
from tests.helpers.faces import SlowCrops, face_index, smooth_image, write_image
from tests.helpers.loading import params
from utils.config.sections import CropInputConfig
from utils.config.train import DatasetConfig
from utils.errors import DataError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return face_index(tmp_path_factory.mktemp("faces"), 23)


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


def test_a_folder_of_broken_images_gives_failures_only(broken):
    cfg = CropInputConfig(loc=broken.source.location)
    for workers in (0, 2):
        batches = list(crop_batches(FaceCrops(broken.source, cfg).take(np.arange(1, 8)), 4, workers))
        assert [len(batch.images) for batch in batches] == [0, 0]
        failures = [failure for batch in batches for failure in batch.failures]
        assert failures == [(row, "empty file") for row in range(7)]
