"""prepare.py base.task=check decodes a sample and draws it: landmarks where they are, labels in order."""

import cv2
import numpy as np
import pytest

from data.alignment import TEMPLATE_112
from data.index.build import FaceIndex
from data.sources.folder import list_folder
from jobs.contact_sheet import COLOURS, COLUMNS, SHEET, Look, look
from tests.helpers.images import crop_pixels, write_bytes, write_image
from tests.helpers.inference import rows_of
from utils.config.prepare import LookConfig
from utils.config.sections import DecodeConfig

COUNT = 30
STEP, CAPTION = 116, 18


@pytest.fixture
def index(tmp_path):
    """Thirty grey photographs of 224x112 pixels, each brighter than the one before; labels fall with brightness."""
    for row in range(COUNT):
        write_image(tmp_path / f"faces/{row:02d}.png", np.full((112, 224, 3), 8 * row, np.uint8))
    landmarks = np.repeat(np.float32(TEMPLATE_112 + np.array([100, 0]))[None], COUNT, axis=0)
    return FaceIndex(list_folder(tmp_path / "faces"), landmarks, np.linspace(1, 0, COUNT, dtype=np.float32))


def sheet_of(index, folder, **check):
    lines = look(index, DecodeConfig(), LookConfig(**check), folder)
    return lines, cv2.cvtColor(cv2.imread(str(folder / SHEET)), cv2.COLOR_BGR2RGB)


def test_landmarks_are_drawn_where_they_are_and_where_they_should_be(index, tmp_path):
    _, sheet = sheet_of(index, tmp_path, sample=None)
    for (x, y), colour in zip(TEMPLATE_112, COLOURS, strict=True):
        whole = sheet[2 * CAPTION + round(y / 2), round((x + 100) / 2)]  # 224 px are shown in 112
        assert tuple(whole) == colour
        assert tuple(sheet[2 * CAPTION + STEP + round(y), round(x)]) == colour


def test_lowest_and_highest_labels_are_shown_in_order(index, tmp_path):
    _, sheet = sheet_of(index, tmp_path, sample=24)
    lowest = 3 * CAPTION + 4 * STEP
    highest = lowest + STEP + 2 * CAPTION
    for top, rows in ((lowest, range(COUNT - 1, 0, -1)), (highest, range(COUNT))):
        brightness = [sheet[top + 5, column * STEP + 56].tolist() for column in range(COLUMNS)]
        assert brightness == [[8 * row] * 3 for _, row in zip(range(COLUMNS), rows)]


def test_the_sample_is_seeded(index):
    one = Look(index, DecodeConfig())
    rows = one.sample(LookConfig(sample=10))
    assert len(set(rows.tolist())) == 10 and (np.diff(rows) > 0).all()
    assert np.array_equal(rows, one.sample(LookConfig(sample=10)))
    assert not np.array_equal(rows, one.sample(LookConfig(sample=10, seed=1)))
    assert len(one.sample(LookConfig(sample=None))) == len(one.sample(LookConfig(sample=99))) == COUNT


def test_images_without_a_crop_are_counted_and_named(index, tmp_path):
    write_bytes(tmp_path / "faces/03.png", b"")
    index.landmarks[5] = index.landmarks[5] / 1000
    lines, _ = sheet_of(index, tmp_path, sample=None)
    assert lines[0].startswith("looked at 30 of 30 images")
    assert lines[1].startswith("images: 2 of 30 images give no crop, first: '03.png' (empty file)")
    failed = rows_of(tmp_path / "failures.csv")
    assert [row["path"] for row in failed] == ["03.png", "05.png"] and "fractions" in failed[1]["reason"]


def test_photographs_taken_for_crops_are_named(tmp_path):
    write_image(tmp_path / "faces/a.png", crop_pixels(1))
    write_image(tmp_path / "faces/b.png", np.zeros((90, 60, 3), np.uint8))
    lines, _ = sheet_of(FaceIndex(list_folder(tmp_path / "faces")), tmp_path)
    assert "1 of 2 images give no crop, first: 'b.png' (an aligned crop is square" in lines[1]
