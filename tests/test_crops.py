"""Crops to score: against cv2 and torchvision called by hand, and the reasons of images that give none."""

import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import resize

from data.alignment import BORDERS, TEMPLATE_112, estimate_similarity, outside_share
from data.samples.crops import CropPerturbation, FaceCrops, resize_crop
from data.samples.datasets import DistillationDataset
from data.sources.folder import list_folder
from data.sources.memory import MemorySource
from tests.helpers.faces import crop_by_hand, face_index, smooth_image, write_image
from utils.config.sections import CropInputConfig, DecodeConfig
from utils.config.train_aikd import StudentCropConfig
from utils.errors import DataError

SOURCE = StudentCropConfig(radius_px=3, unit="source")
DECODE = DecodeConfig()


@pytest.fixture
def index(tmp_path):
    return face_index(tmp_path, 7)


def aligned_cfg(root, **values):
    return CropInputConfig(loc=str(root), **values)


def test_an_aligned_crop_is_used_as_it_is(tmp_path):
    image = smooth_image(np.random.default_rng(0), 112, 112)
    write_image(tmp_path / "a.png", image)
    batch = FaceCrops(list_folder(tmp_path), aligned_cfg(tmp_path))[0]
    assert batch.rows == [0]
    assert batch.failures == batch.not_square == batch.resized == ()
    np.testing.assert_array_equal(batch.images[0], image)


@pytest.mark.parametrize("size", [(96, 96), (160, 160), (250, 250), (112, 96), (224, 112)])
def test_other_sizes_are_resized_as_the_released_transform_does(tmp_path, size):
    image = smooth_image(np.random.default_rng(0), *size)
    write_image(tmp_path / "a.png", image)
    batch = FaceCrops(list_folder(tmp_path), aligned_cfg(tmp_path))[0]
    np.testing.assert_array_equal(batch.images[0], np.asarray(resize(Image.fromarray(image), [112, 112])))
    np.testing.assert_array_equal(resize_crop(image), batch.images[0])
    square = size[0] == size[1]
    assert (batch.not_square, batch.resized) == (((), (0,)) if square else ((0,), ()))


def test_landmark_input_aligns_as_training_does(index):
    cfg = aligned_cfg(index.source.location, input="landmarks")
    batch = FaceCrops(index.source, cfg, index.landmarks).__getitems__([3, 0])
    training = DistillationDataset(index, 1, SOURCE, DECODE).__getitems__([(0, 3), (0, 0)])
    assert batch.rows == [3, 0]
    assert torch.equal(batch.images, training.aligned)


def test_failures_carry_their_reason(index, tmp_path):
    landmarks = index.landmarks.copy()
    landmarks[1] = np.nan
    landmarks[2, 0, 0] = np.nan
    landmarks[3] = 7
    landmarks[4] = -1000 - TEMPLATE_112
    (tmp_path / index.names[5]).write_bytes(b"")
    cfg = aligned_cfg(index.source.location, input="landmarks")
    batch = FaceCrops(index.source, cfg, landmarks).__getitems__(range(7))
    assert batch.rows == [0, 6]
    assert batch.failures == (
        (1, "no landmarks"),
        (2, "no landmarks"),
        (3, "landmarks coincide"),
        (4, "all landmarks lie outside the 90x100 image"),
        (5, "empty file"),
    )
    np.testing.assert_array_equal(batch.images[1], crop_by_hand(index.source.describe(6), landmarks[6]))


def test_landmarks_as_fractions_of_the_image_give_no_crop(index):
    landmarks = index.landmarks / [90, 100]
    batch = FaceCrops(index.source, aligned_cfg(index.source.location, input="landmarks"), landmarks)[0]
    reason = "landmarks span less than 2 px; are they fractions of the image?"
    assert batch.failures == ((0, reason),) and batch.rows == []
    index.landmarks[1] /= 100
    with pytest.raises(DataError, match=re.escape(reason)):
        DistillationDataset(index, 1, SOURCE, DECODE)[0, 1]


def test_landmark_input_needs_all_landmarks(index):
    cfg = aligned_cfg(index.source.location, input="landmarks")
    for landmarks in (None, index.landmarks[:3]):
        with pytest.raises(DataError, match="all 7 images"):
            FaceCrops(index.source, cfg, landmarks)


@pytest.mark.parametrize("kind", ["aligned", "landmarks"])
def test_evaluation_noise_is_keyed_by_seed_and_name(index, tmp_path, kind):
    """The same draw wherever the image stands in a list, for every method that looks at it."""
    perturb = CropPerturbation(radius_px=6, unit="template", seed=3)
    cfg = aligned_cfg(index.source.location, input=kind)
    plain = FaceCrops(index.source, cfg, index.landmarks if kind == "landmarks" else None)
    crops = replace(plain, perturb=perturb)
    all_of_them = crops.__getitems__(range(7)).images
    assert torch.equal(crops.take(np.arange(7)[::-1])[6].images[0], all_of_them[0])
    assert torch.equal(crops.take(np.array([4]))[0].images[0], all_of_them[4])
    other_seed = replace(plain, perturb=replace(perturb, seed=4))
    assert not torch.equal(other_seed[0].images[0], all_of_them[0])
    still = replace(plain, perturb=replace(perturb, radius_px=0))
    assert torch.equal(still[0].images[0], plain[0].images[0])


def test_noise_in_template_pixels_moves_aligned_crops_by_that_much(tmp_path):
    write_image(tmp_path / "a.png", smooth_image(np.random.default_rng(0), 112, 112))
    perturb = CropPerturbation(radius_px=6, unit="template", seed=3)
    moved = perturb(TEMPLATE_112, "a.png")
    assert np.abs(moved - TEMPLATE_112).max() <= 6
    batch = FaceCrops(list_folder(tmp_path), aligned_cfg(tmp_path), perturb=perturb)[0]
    np.testing.assert_array_equal(batch.images[0], crop_by_hand(tmp_path / "a.png", moved))


@pytest.mark.parametrize("border", BORDERS)
def test_an_evaluation_s_crops_tell_how_far_they_reach_beyond_their_images(tmp_path, border):
    image = smooth_image(np.random.default_rng(0), 112, 112)
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name, image)
    perturb = CropPerturbation(radius_px=8, unit="template", seed=3, border=border)
    crops = FaceCrops(list_folder(tmp_path), aligned_cfg(tmp_path), perturb=perturb)
    batch = crops.__getitems__([0, 1])
    for crop, share, name in zip(batch.images, batch.outside, ("a.png", "b.png"), strict=True):
        matrix = estimate_similarity(perturb(TEMPLATE_112, name), TEMPLATE_112)
        want = cv2.warpAffine(image, matrix, (112, 112), flags=cv2.INTER_LINEAR, borderMode=BORDERS[border])
        np.testing.assert_array_equal(crop, want)
        assert share == outside_share(matrix, image.shape) > 0
    assert replace(crops, perturb=None).__getitems__([0, 1]).outside == (0, 0)


def test_crops_come_from_any_source(index):
    cfg = aligned_cfg(index.source.location)
    images = [index.source.read(row) for row in range(7)]
    from_folder = FaceCrops(index.source, cfg).__getitems__(range(7))
    from_memory = FaceCrops(MemorySource("faces.bin", index.names, images), cfg).__getitems__(range(7))
    assert torch.equal(from_folder.images, from_memory.images)
    assert len(from_folder.images) == 7
    assert from_folder.not_square == from_memory.not_square == tuple(range(7))
