"""inference.py: the right score for every kind of image, aligned by its landmarks or as the crop it is."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.alignment import TEMPLATE_112, align
from data.tables.landmarks import read_landmarks, write_landmarks_csv
from tests.helpers.faces import spoil_landmarks
from tests.helpers.images import crop_pixels, jpeg_bytes, write_bytes, write_crops, write_image, write_twins
from tests.helpers.inference import assert_scores, expected, infer, rows_of, scores_of, write_repeatable_setup
from tests.helpers.recognition import write_face_records


@pytest.fixture
def setup(tmp_path, caplog):
    caplog.set_level("INFO")
    return write_repeatable_setup(tmp_path)


# ---- image kinds


def test_every_lossless_twin_scores_like_the_plain_png(setup):
    pixels = crop_pixels(3)
    names = write_twins(setup / "faces", pixels)
    assert infer(setup) == 0
    assert_scores(scores_of(setup / "out"), {name: expected(pixels) for name in names})


def test_files_without_a_suffix_are_what_their_content_is(setup):
    pixels, kinds = crop_pixels(3), ("bmp", "png", "ppm", "tif", "webp")
    for kind in kinds:
        write_image(setup / f"faces/{kind}.{kind}", pixels)
        (setup / f"faces/{kind}.{kind}").rename(setup / f"faces/as_{kind}")
    write_image(setup / "faces/odd.png", pixels)
    (setup / "faces/odd.png").rename(setup / "faces/a.gif")  # another kind than its suffix says
    (setup / "faces/notes").write_text("no image")
    (setup / "faces/README").write_text("nor a candidate")
    assert infer(setup) == 0
    names = ["a.gif", *(f"as_{kind}" for kind in kinds)]
    assert_scores(scores_of(setup / "out"), dict.fromkeys(names, expected(pixels)))
    reasons = {row["path"]: row["reason"] for row in rows_of(setup / "out/failures.csv")}
    assert list(reasons) == ["notes"] and reasons["notes"].startswith("not an image (no JPEG, PNG")
    assert json.loads((setup / "out/run.json").read_text())["counts"]["other_files"] == 1
    assert infer(setup, f"dataset.loc={setup}/faces/as_png", f"base.save_path={setup}/single") == 0
    assert_scores(scores_of(setup / "single"), {"as_png": expected(pixels)})


def test_a_16_bit_grey_png_scores_like_its_8_bit_twin(setup):
    grey = crop_pixels(4)[:, :, 1]
    write_image(setup / "faces/grey8.png", grey)
    write_image(setup / "faces/grey16.png", grey.astype(np.uint16) * 257)
    write_image(setup / "faces/grey16.tif", grey.astype(np.uint16) * 257)
    assert infer(setup) == 0
    wanted = expected(np.repeat(grey[:, :, None], 3, axis=2))
    assert_scores(scores_of(setup / "out"), dict.fromkeys(["grey16.png", "grey16.tif", "grey8.png"], wanted))


def test_lossy_kinds_are_close_to_the_original(setup):
    pixels = crop_pixels(5)
    for name in ("a.JPG", "b.jpeg", "c.Jpe"):
        write_bytes(setup / "faces" / name, jpeg_bytes(pixels))
    write_image(setup / "faces/d.webp", pixels, lossless=False, quality=90)
    assert infer(setup) == 0
    found = scores_of(setup / "out")
    assert list(found) == ["a.JPG", "b.jpeg", "c.Jpe", "d.webp"]
    np.testing.assert_allclose(list(found.values()), expected(pixels), atol=0.05)


def test_exif_rotation_can_be_ignored(setup):
    pixels = crop_pixels(6)
    write_twins(setup / "faces", pixels)
    assert infer(setup, "dataset.exif=0") == 0
    found = scores_of(setup / "out")
    assert found["turned.png"] == pytest.approx(expected(np.rot90(pixels).copy()), abs=1e-5)
    assert found["twin.bmp"] == pytest.approx(expected(pixels), abs=1e-5)


def test_a_record_file_scores_like_the_files_in_it(setup):
    names = write_crops(setup / "faces", 11)
    write_face_records(setup / "train.rec", [(setup / "faces" / name, 0) for name in names])
    assert infer(setup) == 0
    files = scores_of(setup / "out")
    assert infer(setup, f"dataset.loc={setup}/train.rec") == 0
    records = scores_of(setup / "out")
    assert list(records) == [str(key) for key in range(1, 12)]  # by number, not by text
    assert list(records.values()) == [files[name] for name in names]


# ---- landmarks


def write_landmarks(folder: Path, names: list[str]) -> None:
    lines = []
    for seed, name in enumerate(names):
        pixels = crop_pixels(seed, 160)
        write_image(folder / "faces" / name, pixels)
        points = TEMPLATE_112 * 0.9 + (20, 12) + seed
        lines.append(",".join([name, *(repr(float(np.float32(v))) for v in points.ravel())]))
    (folder / "landmarks.csv").write_text("\n".join(lines) + "\n")


def aligned_score(seed: int) -> float:
    points = (TEMPLATE_112 * 0.9 + (20, 12) + seed).astype(np.float32)
    return expected(align(crop_pixels(seed, 160), points))


def test_photographs_are_aligned_by_their_landmarks(setup):
    write_landmarks(setup, ["a/1.png", "a/2.png", "b/1.png"])
    extra = ["dataset.input=landmarks", f"dataset.landmarks={setup}/landmarks.csv"]
    assert infer(setup, *extra) == 0
    wanted = {name: aligned_score(seed) for seed, name in enumerate(["a/1.png", "a/2.png", "b/1.png"])}
    assert_scores(scores_of(setup / "out"), wanted)


def test_images_without_landmarks_stop_the_run_or_are_listed(setup, capsys):
    write_landmarks(setup, ["a/1.png", "a/2.png"])
    write_image(setup / "faces/a/3.png", crop_pixels(9))
    extra = ["dataset.input=landmarks", f"dataset.landmarks={setup}/landmarks.csv"]
    assert infer(setup, *extra) == 2
    assert "1 of 3 images have no landmarks, first 'a/3.png'" in capsys.readouterr().err
    assert not (setup / "out").exists()
    assert infer(setup, *extra, "dataset.on_missing=skip") == 0
    assert list(scores_of(setup / "out")) == ["a/1.png", "a/2.png"]
    assert rows_of(setup / "out/failures.csv") == [{"path": "a/3.png", "reason": "no landmarks"}]


@pytest.mark.parametrize("looks", ["the eyes are exchanged", "they are fractions of the image, not pixels"])
def test_landmarks_in_a_wrong_order_are_refused_before_anything_is_written(setup, capsys, looks):
    write_landmarks(setup, ["a/1.png", "a/2.png", "b/1.png"])
    spoil_landmarks(setup / "landmarks.csv", looks)
    assert infer(setup, "dataset.input=landmarks", f"dataset.landmarks={setup}/landmarks.csv") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {setup}/landmarks.csv: 100% of the landmarks") and looks in error
    assert not (setup / "out").exists()


def test_landmarks_that_are_often_unlike_a_face_are_said(setup, caplog):
    write_landmarks(setup, ["a/1.png", "a/2.png", "b/1.png"])
    table = read_landmarks(setup / "landmarks.csv")
    table.points[0] = table.points[0, :, ::-1].copy()
    write_landmarks_csv(setup / "landmarks.csv", table.names, table.points)
    assert infer(setup, "dataset.input=landmarks", f"dataset.landmarks={setup}/landmarks.csv") == 0
    assert caplog.text.count("33% of the landmarks are unlike a face in template order, whatever its pose") == 1


def test_a_crop_that_is_not_square_is_squeezed_with_a_warning(setup, caplog):
    write_image(setup / "faces/wide.png", crop_pixels(1, 128)[:100])
    write_image(setup / "faces/large.png", np.full((200, 200, 3), 90, np.uint8))
    assert infer(setup, "dataset.accept_unusual=1") == 0
    assert "'wide.png' is not square" in caplog.text
    assert scores_of(setup / "out")["large.png"] == pytest.approx(
        expected(np.full((112, 112, 3), 90, np.uint8)), abs=1e-5
    )
    counts = json.loads((setup / "out/run.json").read_text())["counts"]
    assert (counts["not_square"], counts["resized"]) == (1, 1)
    assert "1 images were not square and have been squeezed" in caplog.text
    assert caplog.text.count(RESIZED) == 1


RESIZED = (
    "1 images were not 112x112 and were resized; if they are photographs rather than aligned crops, use "
    "dataset.input=landmarks"
)


def test_resizing_is_said_of_photographs_only(setup, caplog):
    write_crops(setup / "faces", 2)
    write_landmarks(setup, ["a/1.png", "a/2.png"])
    assert infer(setup, "dataset.loc=" + str(setup / "faces/a"), "dataset.accept_unusual=1") == 0
    assert RESIZED.replace("1 images", "2 images") in caplog.text
    caplog.clear()
    extra = ["dataset.input=landmarks", f"dataset.landmarks={setup}/landmarks.csv", "dataset.on_missing=skip"]
    assert infer(setup, *extra) == 0 and "resized" not in caplog.text
    for path in (setup / "faces/a").iterdir():
        path.unlink()
    assert infer(setup) == 0 and "resized" not in caplog.text
