"""Samples to train on: the crops against cv2 called by hand, the keys of every random draw, what broken files do."""

import pickle
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from data.alignment import BORDERS, TEMPLATE_112, estimate_similarity, outside_share
from data.images.decode import decode_rgb
from data.samples.datasets import DistillationDataset, IdentityDataset
from data.samples.sampler import VALIDATION_EPOCH
from tests.helpers.faces import crop_by_hand, face_index, smooth_image, write_image
from utils.config.sections import DecodeConfig
from utils.config.train import DatasetConfig
from utils.config.train_aikd import StudentCropConfig
from utils.errors import DataError

SOURCE = StudentCropConfig(radius_px=3, unit="source")
DECODE = DecodeConfig()


def decode_config(root, **values):
    return DatasetConfig(image_location=str(root), **values)


@pytest.fixture
def index(tmp_path):
    return face_index(tmp_path, 7)


# ---------------------------------------------------------------- distillation


@pytest.mark.parametrize("unit", ["source", "template"])
def test_a_sample_is_the_aligned_and_the_perturbed_crop(index, unit):
    perturbation = StudentCropConfig(radius_px=4, unit=unit)
    batch = DistillationDataset(index, 11, perturbation, DECODE).__getitems__([(2, 5), (0, 1)])
    assert batch.row.tolist() == [5, 1]
    np.testing.assert_array_equal(batch.label, index.labels[[5, 1]])
    assert batch.aligned.dtype == batch.misaligned.dtype == torch.uint8
    assert batch.aligned.shape == batch.misaligned.shape == (2, 112, 112, 3)
    assert batch.failures == ()
    for i, (epoch, row) in enumerate([(2, 5), (0, 1)]):
        points = index.landmarks[row].astype(np.float64)
        offsets = np.random.default_rng([11, epoch, row]).uniform(-4, 4, (5, 2))
        if unit == "template":
            offsets = offsets @ np.linalg.inv(estimate_similarity(points, TEMPLATE_112)[:, :2]).T
        np.testing.assert_array_equal(batch.aligned[i], crop_by_hand(index.source.describe(row), points))
        np.testing.assert_array_equal(batch.misaligned[i], crop_by_hand(index.source.describe(row), points + offsets))


def test_the_draw_depends_on_seed_epoch_and_row_alone(index):
    def misaligned(seed, keys):
        batch = DistillationDataset(index, seed, SOURCE, DECODE).__getitems__(keys)
        return dict(zip(keys, batch.misaligned, strict=True))

    first = misaligned(1, [(0, 2), (0, 3), (1, 2)])
    again = misaligned(1, [(1, 2), (0, 2)])
    assert torch.equal(first[0, 2], again[0, 2])
    assert torch.equal(first[1, 2], again[1, 2])
    assert not torch.equal(first[0, 2], first[1, 2])
    assert not torch.equal(first[0, 2], misaligned(2, [(0, 2)])[0, 2])


def test_no_epoch_moves_the_stored_landmarks(index):
    """The released code's `landms += noise` let them drift (docs/fidelity.md, row 7)."""
    kept = index.landmarks.copy()
    index.landmarks.setflags(write=False)
    dataset = DistillationDataset(index, 1, SOURCE, DECODE)
    first = dataset[(0, 0)].aligned
    for epoch in range(5):
        assert torch.equal(dataset[(epoch, 0)].aligned, first)
    np.testing.assert_array_equal(index.landmarks, kept)


def test_misalign_off_makes_both_crops_the_aligned_one(index):
    batch = DistillationDataset(index, 1, None, DECODE).__getitems__([(0, 0), (0, 1)])
    assert torch.equal(batch.aligned, batch.misaligned)
    still = DistillationDataset(index, 1, StudentCropConfig(radius_px=0), DECODE).__getitems__([(0, 0), (0, 1)])
    assert torch.equal(still.aligned, batch.aligned)
    assert torch.equal(still.misaligned, batch.aligned)


@pytest.mark.parametrize("border", BORDERS)
def test_the_misaligned_crop_shows_outside_its_image_what_is_asked_for(tmp_path, border):
    index = face_index(tmp_path, 3, landmarks=False)
    perturbation = StudentCropConfig(radius_px=9, border=border)
    batch = DistillationDataset(index, 5, perturbation, DECODE).__getitems__([(0, 0), (0, 2)])
    for crop, aligned, row in zip(batch.misaligned, batch.aligned, (0, 2), strict=True):
        image = decode_rgb(index.source.read(row))
        np.testing.assert_array_equal(aligned, image)
        points = TEMPLATE_112 + np.random.default_rng([5, 0, row]).uniform(-9, 9, (5, 2))
        matrix = estimate_similarity(points, TEMPLATE_112)
        want = cv2.warpAffine(image, matrix, (112, 112), flags=cv2.INTER_LINEAR, borderMode=BORDERS[border])
        np.testing.assert_array_equal(crop, want)
        assert outside_share(matrix, image.shape) > 0.01


def test_crops_that_are_aligned_already_use_the_template(tmp_path):
    index = face_index(tmp_path, 3, landmarks=False)
    batch = DistillationDataset(index, 5, SOURCE, DECODE).__getitems__([(0, 0), (0, 2)])
    np.testing.assert_array_equal(batch.aligned[1], decode_rgb(index.source.read(2)))
    offsets = np.random.default_rng([5, 0, 2]).uniform(-3, 3, (5, 2))
    np.testing.assert_array_equal(batch.misaligned[1], crop_by_hand(index.source.describe(2), TEMPLATE_112 + offsets))


def test_aligned_crops_of_another_size_are_scaled_and_must_be_square(tmp_path):
    index = face_index(tmp_path, 3, landmarks=False)
    rng = np.random.default_rng(0)
    write_image(tmp_path / index.names[0], smooth_image(rng, 224, 224))
    write_image(tmp_path / index.names[1], smooth_image(rng, 112, 96))
    dataset = DistillationDataset(index, 5, SOURCE, decode_config(tmp_path, on_missing="skip"))
    batch = dataset.__getitems__([(0, 0), (0, 1), (0, 2)])
    np.testing.assert_array_equal(batch.aligned[0], decode_rgb(index.source.read(0))[::2, ::2])
    assert batch.row.tolist() == [0, 2]
    assert batch.failures == ((1, "an aligned crop is square, this one has 96x112 pixels"),)


def test_validation_has_an_epoch_of_its_own(index):
    dataset = DistillationDataset(index, 1, SOURCE, DECODE)
    assert torch.equal(dataset[(VALIDATION_EPOCH, 3)].misaligned, dataset[(VALIDATION_EPOCH, 3)].misaligned)
    np.random.default_rng([1, VALIDATION_EPOCH, 3])  # fits numpy's 32-bit words


def test_a_broken_training_image_stops_the_run_and_is_named(index, tmp_path):
    (tmp_path / index.names[2]).write_bytes(b"")
    dataset = DistillationDataset(index, 1, SOURCE, decode_config(tmp_path))
    with pytest.raises(DataError) as caught:
        dataset.__getitems__([(0, 1), (0, 2)])
    assert str(caught.value) == (
        f"{tmp_path / index.names[2]}: empty file; repair it under its name or set dataset.on_missing=skip, then go on "
        "with base.resume=auto; with the image removed it is a new run"
    )


def test_broken_training_images_are_dropped_and_counted_with_skip(index, tmp_path):
    (tmp_path / index.names[2]).unlink()
    index.landmarks[4] = 50
    index.landmarks[5] = 5000 + TEMPLATE_112
    dataset = DistillationDataset(index, 1, SOURCE, decode_config(tmp_path, on_missing="skip"))
    batch = dataset.__getitems__([(0, row) for row in (6, 2, 4, 5, 0)])
    assert batch.row.tolist() == [6, 0]
    np.testing.assert_array_equal(batch.label, index.labels[[6, 0]])
    np.testing.assert_array_equal(batch.aligned[1], crop_by_hand(index.source.describe(0), index.landmarks[0]))
    assert batch.failures == (
        (2, "cannot be read: No such file or directory"),
        (4, "landmarks coincide"),
        (5, "all landmarks lie outside the 90x100 image"),
    )
    empty = dataset.__getitems__([(0, 2)])
    assert empty.aligned.shape == (0, 112, 112, 3)
    assert empty.label.shape == empty.row.shape == (0,)


def test_training_without_labels_or_identities_is_refused(index):
    with pytest.raises(DataError, match=r"labels \(dataset.quality_location\)"):
        DistillationDataset(replace(index, labels=None), 1, SOURCE, DECODE)
    with pytest.raises(DataError, match="identities"):
        IdentityDataset(replace(index, identities=None), 1, True, DECODE)


def test_exif_can_be_ignored(tmp_path):
    index = face_index(tmp_path, 1)
    path = tmp_path / index.names[0]
    exif = Image.Exif()
    exif[274] = 3
    Image.open(path).save(path, "PNG", exif=exif.tobytes())
    turned = DistillationDataset(index, 1, None, DECODE)[(0, 0)].aligned[0]
    stored = DistillationDataset(index, 1, None, DecodeConfig(exif=False))[(0, 0)].aligned[0]
    pixels = np.array(Image.open(path))
    matrix = estimate_similarity(index.landmarks[0], TEMPLATE_112)
    np.testing.assert_array_equal(stored, cv2.warpAffine(pixels, matrix, (112, 112)))
    np.testing.assert_array_equal(turned, cv2.warpAffine(np.rot90(pixels, 2).copy(), matrix, (112, 112)))


def test_datasets_pickle_small(index):
    dataset = DistillationDataset(index, 1, SOURCE, DECODE)
    blob = pickle.dumps(dataset)
    assert len(blob) < 3000
    copy = pickle.loads(blob)
    assert torch.equal(copy[(3, 1)].misaligned, dataset[(3, 1)].misaligned)
    assert len(copy) == 7


# ---------------------------------------------------------------- recognition


def test_recognition_batches_carry_identities(index):
    batch = IdentityDataset(index, 1, False, DECODE).__getitems__([(0, 6), (0, 0)])
    assert batch.identity.tolist() == index.identities[[6, 0]].tolist()
    assert batch.identity.dtype == batch.row.dtype == torch.int64
    np.testing.assert_array_equal(batch.images[0], crop_by_hand(index.source.describe(6), index.landmarks[6]))


def test_flips_are_drawn_from_seed_epoch_and_row(index):
    keys = [(epoch, row) for epoch in range(20) for row in range(7)]
    plain = IdentityDataset(index, 4, False, DECODE).__getitems__(keys).images
    images = IdentityDataset(index, 4, True, DECODE).__getitems__(keys).images
    flips = [np.random.default_rng([4, *key]).random() < 0.5 for key in keys]
    assert 50 < sum(flips) < 90
    for image, upright, flip in zip(images, plain, flips, strict=True):
        assert torch.equal(image, upright.flip(1) if flip else upright)


def test_a_broken_image_in_recognition_training(index, tmp_path):
    (tmp_path / index.names[2]).write_text("no picture")
    with pytest.raises(DataError, match="not an image"):
        IdentityDataset(index, 1, True, decode_config(tmp_path)).__getitems__([(0, 2)])
    batch = IdentityDataset(index, 1, False, decode_config(tmp_path, on_missing="skip")).__getitems__([(0, 2), (0, 3)])
    assert batch.row.tolist() == [3]
    assert batch.identity.tolist() == [index.identities[3]]
    np.testing.assert_array_equal(batch.images[0], crop_by_hand(index.source.describe(3), index.landmarks[3]))
