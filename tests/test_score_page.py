"""scores.html: what the page holds, and, in a real Chromium, what it does."""

import base64
import json
import math

import numpy as np
import pytest

import label
from data.images.decode import decode_rgb
from data.tables.names import Names
from evaluation.report.score_page import EXTREMES, STEPS, STRIP, ScorePage
from tests.helpers.browser import browser
from tests.helpers.images import crop_pixels, write_broken, write_crops
from tests.helpers.inference import infer, page_content, rows_of, write_setup
from utils import cli

HOSTILE = "</script><img src=x onerror=alert(1)>{{script}}.png"


def page_of(values, reasons=None):
    names = Names.from_strings([f"{row:07d}.png" for row in range(len(values))])
    rows = np.flatnonzero(np.isfinite(values))
    return ScorePage("title", names, rows, np.float32(values)[rows], reasons or {}, {})


def numbers(text, kind):
    return np.frombuffer(base64.b64decode(text), kind)


def test_groups_and_thresholds_of_eight_images():
    content = page_of([0.5, 0.1, math.nan, 0.3, 0.1, 0.9, 0.7, 0.2], {2: "empty file"}).content({})
    names = [face["name"] for face in content["faces"]]
    lowest = [1, 4, 7, 3, 0, 6, 5]  # equal ones in the order of their names
    assert [names[i] for i in content["lowest"]] == [f"{row:07d}.png" for row in lowest]
    assert content["highest"] == content["lowest"][::-1] and content["strip"] == content["lowest"]
    assert [content["faces"][i]["quality"] for i in content["lowest"]] == [0.1, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9]
    ranks = [1.5, 4, 7]  # two equal ones share the mean of 1 and 2
    shown = [content["faces"][i]["percentile"] for i in content["lowest"][::3]]
    assert shown == pytest.approx([100 * rank / 7 for rank in ranks], abs=1e-4)
    thresholds, below = numbers(content["thresholds"], "<f4"), numbers(content["below"], "<u4")
    wanted = np.float32([0.1, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9])
    for step, (count, less) in {
        0: (0, 0),
        1428: (0, 0),
        1429: (1, 0),
        2857: (1, 0),
        2858: (2, 2),
        9999: (6, 6),
    }.items():
        assert (thresholds[step], below[step]) == (wanted[count], less)
    assert content["failures"] == [{"reason": "empty file", "count": 1, "first": "0000002.png"}]
    assert content["count"] == 7 and sum(content["histogram"]["counts"]) == 7


@pytest.mark.parametrize("values", [[0.25], [0.25] * 40, [-3e38, 3e38], [1e-45, 0.0]])
def test_odd_distributions_have_a_page(values, tmp_path):
    page = page_of(values)
    page.write(tmp_path / "page.html", {})
    content = page_content(tmp_path / "page.html")
    assert sum(content["histogram"]["counts"]) == len(values)
    assert (numbers(content["thresholds"], "<f4")[0], numbers(content["below"], "<u4")[0]) == (
        np.float32(min(values)),
        0,
    )


def test_the_slider_goes_evenly_through_many_images():
    rng = np.random.default_rng(1)
    values = rng.permutation(100_000).astype(np.float32)
    content = page_of(values).content({})
    strip = np.array([content["faces"][i]["quality"] for i in content["strip"]])
    assert len(strip) == STRIP and strip[0] == 0 and strip[-1] == 99_999
    assert set(np.diff(strip)) <= {840, 841}
    assert [content["faces"][i]["quality"] for i in content["highest"]] == [99_999 - i for i in range(EXTREMES)]
    assert (numbers(content["thresholds"], "<f4") == np.arange(STEPS) * 10).all()


def test_failures_that_differ_in_numbers_only_are_one():
    reasons = {
        1: "9x9 pixels are few",
        2: "empty file",
        3: "8x7 pixels are few",
        **{row: f"kind {chr(row)}" for row in range(97, 157)},
    }
    failures = page_of([1.0, *[math.nan] * 199], reasons).content({})["failures"]
    assert failures[0] == {"reason": "9x9 pixels are few", "count": 2, "first": "0000001.png"}
    assert sum(one["count"] for one in failures) == 63 and failures[-1]["reason"].startswith("other reasons")


def test_inference_writes_the_page_with_the_crops_it_scored(tmp_path):
    setup = write_setup(tmp_path)
    names = write_crops(setup / "faces", 3)
    write_broken(setup / "faces")
    assert infer(setup) == 0
    content = page_content(setup / "out/scores.html")
    rows = {row["path"]: row for row in rows_of(setup / "out/quality-scores.csv")}
    assert {face["name"] for face in content["faces"]} == rows.keys() >= set(names)
    for face in content["faces"]:
        assert face["quality"] == float(rows[face["name"]]["quality"])
        assert face["percentile"] == float(rows[face["name"]]["percentile"])
        if face["name"] in names:
            shown = decode_rgb(base64.b64decode(face["jpeg"])).astype(float)
            assert np.abs(shown - crop_pixels(int(face["name"][-7:-4]))).mean() < 6
    failed = rows_of(setup / "out/failures.csv")
    assert sum(one["count"] for one in content["failures"]) == len(failed)
    facts = dict(content["facts"])
    request = json.loads((setup / "out/run.json").read_text())["request"]
    assert facts["weights"].endswith("student.pth") and facts["weights_sha256"] == request["weights_sha256"]
    assert facts["preprocessing.channels"] == "RGB" and facts["preprocessing.mean"] == "[0.5, 0.5, 0.5]"


def test_a_run_without_a_page_removes_the_old_one(tmp_path):
    setup = write_setup(tmp_path)
    write_crops(setup / "faces", 1)
    assert infer(setup) == 0 and (setup / "out/scores.html").exists()
    assert infer(setup, "output.page=0") == 0 and not (setup / "out/scores.html").exists()


def test_labels_have_a_page(tmp_path):
    setup = write_setup(tmp_path)
    write_crops(setup / "faces", 3)
    argv = ["-c", str(setup / "inference_config.yaml"), "source.name=student"]
    assert cli.run(lambda: label.main(argv)) == 0
    content = page_content(setup / "out/scores.html")
    labels = {row["path"]: float(row["quality"]) for row in rows_of(setup / "out/labels.csv")}
    assert {face["name"]: face["quality"] for face in content["faces"]} == labels
    assert dict(content["facts"])["source.name"] == "student"


def test_the_page_in_chromium(tmp_path):
    setup = write_setup(tmp_path)
    write_crops(setup / "faces", 60)
    (setup / "faces" / HOSTILE).parent.mkdir()
    (setup / "faces/id_0/000.png").rename(setup / "faces" / HOSTILE)
    (setup / "faces/broken.jpg").write_bytes(b"")
    with browser() as page:
        assert infer(setup) == 0
        page.open(setup / "out/scores.html")
        rows = rows_of(setup / "out/quality-scores.csv")
        ranked = np.sort(np.float32([row["quality"] for row in rows]))
        for share in ("0", "10", "33.34", "98.33", "98.34", "99.99"):
            page.set("share", share)
            threshold = page.evaluate("document.getElementById('threshold').textContent")
            count = math.floor(round(float(share) * 100) * len(ranked) / 10_000)
            assert np.float32(threshold) == ranked[count] and threshold in {row["quality"] for row in rows}
            said = page.evaluate("document.getElementById('discarded').textContent")
            assert said.startswith(f"Discards {(ranked < np.float32(threshold)).sum()} of 60 images")
        page.set("share", "100")
        assert page.evaluate("document.getElementById('threshold').textContent") == "?"
        shown = {}
        by_quality = sorted(rows, key=lambda row: np.float32(row["quality"]))
        for place in (0, 30, 59):
            page.set("slider", place)
            shown[place] = page.evaluate("[...document.querySelectorAll('#strip img')].map((image) => image.src)")
            centre = page.evaluate("document.querySelector('.centre img').alt")
            assert centre == by_quality[place]["path"]
        assert not set(shown[0]) & set(shown[30]) and not set(shown[30]) & set(shown[59])
        assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth === 112)")
        assert page.evaluate("document.querySelectorAll('#lowest img').length") == EXTREMES
        assert "empty file" in page.evaluate("document.getElementById('failures').textContent")
        assert page.evaluate("document.scripts.length") == 2 and page.evaluate("document.title").startswith(
            "Quality of"
        )
        assert HOSTILE in page.evaluate("[...document.images].map((image) => image.alt)")
        assert page.errors == []
