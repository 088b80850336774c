"""Scores against known nuisance: correlations and medians computed by hand."""

import csv

import numpy as np
import pytest
from scipy.stats import spearmanr

from data.tables.names import Names
from evaluation.measure.nuisance import judge
from evaluation.pairs.sets import PairSet
from evaluation.protocol.face_set import FaceSet
from evaluation.protocol.metadata import read_metadata
from evaluation.report.csv_files import nuisance_rows
from evaluation.report.tables import bin_tables, nuisance_tables
from utils.errors import DataError


@pytest.fixture
def setting(tmp_path):
    """40 images of one person: 20 clean, 20 blurred more and more; every blurred one is paired with a clean one."""
    names = [f"a/{i:03d}.jpg" for i in range(40)]
    blur = np.r_[np.zeros(20), -np.arange(1, 21.0)]  # signed, to be taken by size
    with open(tmp_path / "metadata.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "kind", "blur", "occluder", "yaw"])
        for i in reversed(range(40)):
            writer.writerow([names[i], "clean" if i < 20 else "blur", blur[i], "none", i])
    first, second = np.arange(20, 40), np.arange(20)
    pairs = PairSet(Names.from_strings(names), first, second, np.ones(20, bool), np.zeros(20, np.int32))
    return tmp_path / "metadata.csv", pairs, np.abs(blur)


def test_correlation_and_medians(setting):
    path, pairs, blur = setting
    rng = np.random.default_rng(0)
    quality = 1 - blur / 40 + rng.normal(0, 0.1, 40)
    similarity = 1 - np.arange(1, 21) / 20
    metadata = read_metadata(path, FaceSet("x", pairs, None), pairs.names)
    assert set(metadata.columns) == {"blur"}  # yaw is no kind here, occluder no number
    found = judge("x", metadata, pairs, {"q": quality}, {"r": similarity})
    assert found.spearman["blur"]["q"] == pytest.approx(spearmanr(quality, blur).statistic, abs=1e-12)
    # the clean images, then thirds of 1..20: 1, 7.33, 13.67, 20
    assert [row.images for row in found.bins] == [20, 7, 6, 7]
    assert [(row.low, row.high) for row in found.bins[:2]] == [(0, 0), (1, pytest.approx(22 / 3))]
    assert found.bins[1].medians["q"] == pytest.approx(np.median(quality[20:27]))
    assert found.bins[1].medians["similarity, r"] == pytest.approx(np.median(similarity[:7]))
    assert np.isnan(found.bins[0].medians["similarity, r"])  # no pair of two clean images
    rows = list(nuisance_rows([found]))
    assert rows[0][:6] == ["x", "blur", 0, 0, 20, "q"] and len(rows) == 8
    assert nuisance_tables([found])[0].columns == ["method", "blur"]
    assert "–" in bin_tables([found])[0].rows[0]


def test_similarities_are_those_with_clean_partners(setting):
    path, pairs, _ = setting
    metadata = read_metadata(path, FaceSet("x", pairs, None), pairs.names)
    doubled = PairSet(
        pairs.names, np.r_[pairs.first, pairs.second], np.r_[pairs.second, pairs.first],
        np.ones(40, bool), np.zeros(40, np.int32),
    )  # fmt: skip
    similarity = np.tile(1 - np.arange(1, 21) / 20, 2)
    found = judge("x", metadata, doubled, {"q": np.zeros(40)}, {"r": similarity})
    assert found.bins[1].medians["similarity, r"] == pytest.approx(np.median(similarity[:7]))  # blur 1 to 7
    assert found.bins[3].medians["similarity, r"] == pytest.approx(np.median(similarity[13:20]))
    assert np.isnan(found.spearman["blur"]["q"])


def test_without_kinds_all_images_count(setting, tmp_path):
    path, pairs, _ = setting
    with open(path, newline="") as stream:
        rows = [[cell for i, cell in enumerate(row) if i != 1] for row in csv.reader(stream)]
    with open(tmp_path / "plain.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    metadata = read_metadata(tmp_path / "plain.csv", FaceSet("x", pairs, None), pairs.names)
    assert set(metadata.columns) == {"blur", "yaw"}
    found = judge("x", metadata, pairs, {"q": -np.arange(40.0)}, {})
    assert found.spearman["yaw"]["q"] == pytest.approx(-1)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n"])
def test_a_file_that_is_no_metadata_is_named(tmp_path, setting, text):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(DataError, match=r"bad\.csv"):
        read_metadata(tmp_path / "bad.csv", FaceSet("x", setting[1], None), setting[1].names)
