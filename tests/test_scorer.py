"""Scoring from Python: the numbers of inference.py, for files and for arrays; mistakes are one sentence."""

import re
import subprocess
import sys

import numpy as np
import pytest

from data.alignment import TEMPLATE_112
from data.images.decode import decode_rgb
from data.tables.landmarks import write_landmarks_csv
from jobs import scorer as module
from jobs.scorer import load_scorer
from tests.helpers.images import crop_pixels, write_bytes, write_crops, write_image
from tests.helpers.inference import expected, infer, scores_of, write_setup
from tests.helpers.training import ROOT
from utils.errors import ConfigError, DataError, UserError, WeightsError


@pytest.fixture
def setup(tmp_path):
    return write_setup(tmp_path)


def load(setup, **keys):
    return load_scorer(setup / "student.pth", setup / "model_config.yaml", **keys)


def test_files_and_arrays_score_as_in_inference(setup, monkeypatch):
    monkeypatch.setattr(module, "_AT_ONCE", 3)
    names = write_crops(setup / "faces", 7)
    write_image(setup / "faces/large.png", crop_pixels(50, 160))
    names = [*names, "large.png"]
    assert infer(setup) == 0
    wanted = [scores_of(setup / "out")[name] for name in names]
    paths = [setup / "faces" / name for name in names]
    quality, failures = load(setup).score(paths)
    assert quality.dtype == np.float32 and failures == {}
    np.testing.assert_allclose(quality, wanted, rtol=0, atol=1e-5)
    arrays = [decode_rgb(path.read_bytes()) for path in paths]
    assert np.array_equal(load(setup).score([str(paths[0]), *arrays[1:]]).quality, quality)


def test_photographs_are_aligned_as_in_inference(setup):
    landmarks = np.stack([TEMPLATE_112 * 1.5 + shift for shift in (20, 31.5)]).astype(np.float32)
    names = ["a.png", "b.png"]
    for name, seed in zip(names, (1, 2), strict=True):
        write_image(setup / "faces" / name, crop_pixels(seed, 240))
    write_landmarks_csv(setup / "landmarks.csv", names, landmarks)
    assert infer(setup, "dataset.input=landmarks", f"dataset.landmarks={setup}/landmarks.csv") == 0
    found = load(setup).score([setup / "faces" / name for name in names], landmarks)
    np.testing.assert_allclose(found.quality, [scores_of(setup / "out")[name] for name in names], rtol=0, atol=1e-5)


def test_what_has_no_score_is_named_and_the_others_are_scored(setup):
    write_bytes(setup / "empty.jpg", b"")
    float_pixels = crop_pixels(1).astype(np.float32)
    images = [setup / "empty.jpg", crop_pixels(4), setup / "nowhere.png", float_pixels, crop_pixels(2)[..., 0]]
    quality, failures = load(setup).score(images)
    assert quality[1] == pytest.approx(expected(crop_pixels(4)), abs=1e-5)
    assert np.isnan(quality[[0, 2, 3, 4]]).all() and list(failures) == [0, 2, 3, 4]
    assert failures[0] == "empty file" and failures[2] == "cannot be read: No such file or directory"
    assert "float32" in failures[3] and "(112, 112)" in failures[4]
    points = np.stack([TEMPLATE_112, TEMPLATE_112 / 112, np.full((5, 2), np.nan), TEMPLATE_112 + 500])
    aligned = load(setup).score([crop_pixels(4)] * 4, points)
    assert aligned.quality[0] == pytest.approx(expected(crop_pixels(4)), abs=1e-4)
    assert "fractions" in aligned.failures[1] and aligned.failures[2] == "no landmarks"
    assert "outside" in aligned.failures[3]


def test_photographs_are_not_taken_for_crops(setup):
    write_image(setup / "photo.png", crop_pixels(5, 160))
    images, scorer = [setup / "photo.png", crop_pixels(5, 160), crop_pixels(4)], load(setup)
    with pytest.raises(DataError, match=r"2 of 3 sampled images are no aligned crops .*photo\.png' of 160x160"):
        scorer.score(images)
    accepted = scorer.score(images, accept_unusual=True)
    assert not accepted.failures and accepted.quality[2] == pytest.approx(expected(crop_pixels(4)), abs=1e-5)


def test_landmarks_in_another_order_stop_many_faces_and_are_warned_of_with_few(setup, caplog):
    image, swapped = crop_pixels(4, 200), (TEMPLATE_112 + 40)[[1, 0, 2, 4, 3]]
    scorer = load(setup)
    assert np.isfinite(scorer.score([image], [swapped]).quality).all()
    assert "left and right are exchanged" in caplog.text
    with pytest.raises(DataError, match=r"left and right are exchanged.*set accept_unusual"):
        scorer.score([image] * 20, [swapped] * 20)


def test_an_empty_list_has_no_scores(setup):
    quality, failures = load(setup).score([])
    assert quality.shape == (0,) and failures == {}


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda setup: load_scorer(setup / "no.pth", setup / "model_config.yaml"), WeightsError, "no such weights"),
        (lambda setup: load(setup, chanels="BGR"), ConfigError, "load_scorer: unknown key 'chanels'; did you mean"),
        (lambda setup: load(setup, device="tpu"), ConfigError, "device: 'tpu' is no device"),
        (lambda setup: load(setup).score("a.jpg"), DataError, "put it into a list"),
        (lambda setup: load(setup).score([], TEMPLATE_112), DataError, "expected shape (0, 5, 2)"),
    ],
)
def test_mistakes_are_one_sentence(setup, call, kind, said):
    assert issubclass(kind, UserError)
    with pytest.raises(kind, match=re.escape(said)):
        call(setup)


def test_the_five_lines_of_the_readme_run(setup, monkeypatch):
    """As they stand, in a folder that holds what they name."""
    code = re.search(r"```python\n(from jobs\.scorer.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line.strip()]) == 5
    write_image(setup / "photo.png", crop_pixels(6, 200))
    for name, path in {"aikd-best.pth": "student.pth", "model_config.yaml": "model_config.yaml"}.items():
        target = setup / ("runs/aikd" if name.endswith("pth") else "configs") / name
        target.parent.mkdir(parents=True)
        target.symlink_to(setup / path)
    write_image(setup / "a.png", crop_pixels(3))
    monkeypatch.chdir(setup)
    space = {"pixels": crop_pixels(6, 200), "five_points": TEMPLATE_112 + 30}
    exec(code, space)  # our own README
    assert space["quality"][0] == pytest.approx(expected(crop_pixels(3)), abs=1e-5) and not space["failures"]
    assert np.isfinite(space["aligned"].quality).all()


def test_the_example_runs(setup):
    names = write_crops(setup / "faces", 3)
    paths = [str(setup / "faces" / name) for name in names]
    command = [sys.executable, ROOT / "examples/score_faces.py", setup / "student.pth", setup / "model_config.yaml"]
    done = subprocess.run([*command, *paths, "no.png"], capture_output=True, text=True, cwd=setup, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    wanted = {path: expected(decode_rgb(open(path, "rb").read())) for path in paths}
    assert [path for _, path in lines] == sorted(wanted, key=lambda path: -wanted[path])
    assert [float(quality) for quality, _ in lines] == pytest.approx(sorted(wanted.values())[::-1], abs=1e-4)
    assert done.stderr.splitlines()[-1] == "no.png: cannot be read: No such file or directory"
