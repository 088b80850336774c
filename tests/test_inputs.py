"""data/checks/inputs.py: images that are not what they are said to be are refused, odd but right ones are not."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.alignment import TEMPLATE_112
from data.checks.inputs import SAMPLE, CheckedInput, InputKeys, misplaced
from data.sources.folder import list_folder
from data.tables.landmarks import read_landmarks
from tests.helpers.faces import smooth_image, write_image
from utils.config.sections import ImageInputConfig
from utils.errors import DataError

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "faces"
KEYS = InputKeys("dataset.landmarks", "dataset.accept_unusual")
CENTRED = 0.6 * TEMPLATE_112 + (16, 12)
"""Landmarks in the middle of an image of 100x110 (width x height)."""


def folder_of(folder, *sizes):
    """Write an image for each (height, width) and list them."""
    rng = np.random.default_rng(0)
    for number, size in enumerate(sizes):
        write_image(folder / f"{number:02d}.png", smooth_image(rng, *size))
    return list_folder(folder)


def checked(source, landmarks=None, **cfg):
    return CheckedInput(source, landmarks, "points.csv", ImageInputConfig(**cfg), KEYS)


def test_photographs_taken_for_crops_are_refused_with_the_way_out(tmp_path):
    crops = [(112, 112)] * 3
    photographs = checked(folder_of(tmp_path / "a", *crops, *[(150, 150)] * 2, (112, 100), (90, 112)))
    with pytest.raises(DataError) as caught:
        photographs.lines()
    assert str(caught.value) == (
        f"{tmp_path}/a: 4 of 7 sampled images are no aligned crops of 112x112 px, first '03.png' of 150x150; "
        "photographs need a landmark file (dataset.landmarks); or, if it is meant to be so, set "
        "dataset.accept_unusual: 1"
    )
    (line,) = replace(photographs, cfg=ImageInputConfig(accept_unusual=True)).lines()
    assert "4 of 7 sampled images" in line and line.endswith("accepted by dataset.accept_unusual")
    (line,) = checked(folder_of(tmp_path / "b", *crops, (150, 150), (112, 100))).lines()
    assert "2 of 5 sampled images are no aligned crops" in line
    assert checked(folder_of(tmp_path / "c", *crops)).lines() == []


def test_less_than_five_percent_gives_no_line_and_a_sample_is_drawn_from_all_rows(tmp_path):
    source = folder_of(tmp_path, (112, 112), (150, 150))
    assert checked(source.take(np.repeat([0, 1], [20, 1]))).lines() == []  # 1 of 21
    assert "1 of 19 sampled images" in checked(source.take(np.repeat([0, 1], [18, 1]))).lines()[0]
    (line,) = checked(source.take(np.repeat([0, 1], [600, 400]))).lines()
    other, sampled = map(int, re.findall(r": (\d+) of (\d+) sampled images", line)[0])
    assert sampled == SAMPLE and 60 < other < 100  # 80 are expected, with a standard deviation of 6


def test_what_cannot_be_read_is_no_evidence_and_neither_is_nothing(tmp_path):
    source = folder_of(tmp_path, (112, 112))
    for name in ("x.jpg", "y.jpg"):
        (tmp_path / name).write_bytes(b"no image")
    assert checked(list_folder(tmp_path)).lines() == checked(source.take(np.arange(0))).lines() == []
    only_broken = checked(list_folder(tmp_path).take(np.array([1, 2])), np.full((2, 5, 2), np.nan, np.float32))
    assert only_broken.lines() == []


@pytest.mark.parametrize(
    ("scale", "says"),
    [
        (0.6, "the face lies in the upper left part"),
        (0.86, "the face lies in the upper left part"),
        (1.17, "the face lies in the lower right part"),
        (1 / 0.6, "of the 5 points lie outside"),
    ],
)
def test_landmarks_of_another_version_of_the_images_are_refused(tmp_path, scale, says):
    source = folder_of(tmp_path, *[(110, 100)] * 24)
    points = np.broadcast_to(CENTRED, (24, 5, 2)).astype(np.float32)
    assert checked(source, points).lines() == []
    with pytest.raises(DataError) as caught:
        checked(source, points * scale).lines()
    said = str(caught.value)
    assert said.startswith("points.csv: 24 of 24 sampled faces do not lie in their images") and says in said
    assert "'00.png' of 100x110 px" in said and said.endswith("set dataset.accept_unusual: 1")
    some = np.concatenate([points[:12], points[12:] * scale])
    (line,) = checked(source, some).lines()
    assert line.startswith("points.csv: 12 of 24 sampled faces") and "'12.png' of 100x110 px" in line
    missing = np.where(np.arange(24)[:, None, None] < 12, np.float32(np.nan), some)
    with pytest.raises(DataError, match="12 of 12 sampled faces"):
        checked(source, missing).lines()


def test_small_faces_that_lie_anywhere_in_their_photographs_give_no_line(tmp_path):
    """Half of them lie in the upper left or lower right, as many in the upper right and lower left."""
    source = folder_of(tmp_path, *[(110, 100)] * 24)
    corners = np.array([(8, 8), (72, 8), (8, 82), (72, 82)] * 6, np.float32)
    points = (0.15 * TEMPLATE_112 + corners[:, None]).astype(np.float32)
    assert checked(source, points).lines() == []
    one_side = np.where(points[:, :, :1] > 50, points - (64, 0), points).astype(np.float32)
    with pytest.raises(DataError, match=r"12 of 12 sampled faces .* the face lies in the upper left part"):
        checked(source.take(np.arange(24)[corners[:, 1] < 50]), one_side[corners[:, 1] < 50]).lines()
    assert checked(source.take(np.arange(2)), one_side[:2]).lines() == []


def test_the_order_is_judged_first_and_accepted_alike(tmp_path):
    source = folder_of(tmp_path, *[(110, 100)] * 3)
    mirrored = np.broadcast_to(CENTRED[[1, 0, 2, 4, 3]], (3, 5, 2)).astype(np.float32)
    with pytest.raises(DataError, match=r"left and right are exchanged.*set dataset\.accept_unusual: 1"):
        checked(source, mirrored).lines()
    lines = checked(source, mirrored, accept_unusual=True).lines()
    (order,) = lines
    assert "left and right are exchanged" in order and order.endswith("accepted by dataset.accept_unusual")
    order, version = checked(source, 1.7 * mirrored, accept_unusual=True).lines()
    assert "left and right are exchanged" in order and "3 of 3 sampled faces do not lie" in version


def test_exif_rotation_decides_which_side_is_the_width(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(smooth_image(np.random.default_rng(1), 60, 200))
    for suffix in ("jpg", "png"):
        image.save(tmp_path / f"turned.{suffix}", exif=exif.tobytes())
    source = list_folder(tmp_path)
    upright = (0.6 * TEMPLATE_112 + (-4, 60)).astype(np.float32)  # of 60x200
    points = np.stack([upright, upright])
    assert checked(source, points).lines() == []
    with pytest.raises(DataError, match="2 of 2 sampled faces"):
        checked(source, points, exif=False).lines()


def test_misplaced_by_hand():
    assert misplaced(CENTRED, (100, 110)) is None
    low = 0.3 * TEMPLATE_112 + (35, 81.81)  # one mouth corner at y = 109.52, one at 109.47; pixels reach to 109.5
    assert misplaced(low, (100, 110)) is None
    assert misplaced(np.add(low, [0, 0.1]), (100, 110)) == "2 of the 5 points lie outside"
    left = 0.3 * TEMPLATE_112 - (12.9, -30)  # left eye at x = -1.41, left mouth corner at -.44
    assert misplaced(left, (100, 110)) is None
    assert misplaced(left - (0.1, 0), (100, 110)) == "2 of the 5 points lie outside"
    assert misplaced(TEMPLATE_112, (112, 112)) is None
    assert misplaced(TEMPLATE_112 * 1.65 - [36, 45], (112, 112)) == "the eyes are more than half the image apart"
    assert misplaced(0.2 * TEMPLATE_112 + (90, 5), (400, 40)) is None  # small, at the upper edge of a wide image
    # 112x112 crops that begin at (30, 45) of images of 120x120: 82 columns and 67 rows of 112 lie inside
    assert misplaced(TEMPLATE_112 - [30, 45], (120, 120)) == "56% of the crop lie outside"
    assert misplaced(TEMPLATE_112 - [30, 35], (120, 120)) is None  # 77 rows: 50.3 % lie inside


def test_a_tight_crop_of_a_face_is_not_misplaced_because_its_aligned_crop_is_mostly_black():
    """An image of 68x88 px shows at best 48 % of a crop of 112x112, wherever the face lies in it."""
    for x, y in ((22, 12), (10, 6), (36, 24), (22, 40)):
        assert misplaced(TEMPLATE_112 - [x, y], (68, 88)) is None
    # a narrow image of 60x150 shows 54 % in its middle; at its upper edge 60 columns and 64 rows, 31 %
    assert misplaced(TEMPLATE_112 - [27, -20], (60, 150)) is None
    assert misplaced(TEMPLATE_112 - [27, 48], (60, 150)) == "69% of the crop lie outside"


@pytest.mark.skipif(not SHARED.exists(), reason="the shared photographs are not here")
def test_no_photograph_is_misplaced_and_hardly_any_loose_crop():
    points = read_landmarks(SHARED / "landmarks.csv").points.astype(np.float64)
    assert sum(misplaced(face, (150, 150)) is not None for face in points) == 0
    rng = np.random.default_rng(0)
    for enlarged, place in ((1.3, 0.08), (1.0, 0.05)):  # boxes of the face, as VGGFace2's loose crops are, and tight
        alarms = 0
        for face in points[:2000]:
            eyes = np.linalg.norm(face[1] - face[0])
            size = eyes * np.array([2.2, 2.9]) * enlarged * rng.uniform(0.85, 1.15, 2)
            corner = face.mean(axis=0) - size * (0.5, 0.52) + rng.normal(0, place, 2) * size
            alarms += misplaced(face - corner, tuple(size.round().astype(int))) is not None
        assert alarms < 0.005 * 2000
    source = list_folder(SHARED / "images")
    assert len(source) > SAMPLE and checked(source, points.astype(np.float32)).lines() == []
