"""data/index: labels that are missing, marked as failed or scaled, and the split that follows their order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.index.build import build_index
from data.index.coverage import LabelScaling
from data.index.label_check import odd_labels
from data.index.split import split
from tests.helpers.index import NAMES, SORTED, Faces
from utils.errors import DataError


@pytest.fixture
def faces(tmp_path):
    return Faces(tmp_path)


@pytest.mark.parametrize("cell", ["nan", "", "-1"])
def test_a_label_that_is_missing_in_its_row_follows_on_missing(faces, cell):
    text = (faces.folder / "labels.csv").read_text().replace('"n2/a.png",1.0', f'"n2/a.png",{cell}')
    (faces.folder / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=r"1 of 5 images have no quality label, first: 'n2/a\.png'"):
        build_index(faces.config(missing_value=-1))
    index, coverage = build_index(faces.config(missing_value=-1, on_missing="skip"))
    assert list(index.names) == [name for name in SORTED if name != "n2/a.png"]
    assert "labels: 1 of 5 rows hold no value, first 'n2/a.png', line 4 " in "\n".join(coverage.lines())


def test_marks_of_failure_among_the_labels_are_warned_of():
    rng = np.random.default_rng(0)
    labels = rng.uniform(0.2, 0.9, 500)
    minmax = LabelScaling("minmax", True, 0, 1)
    assert odd_labels(labels, minmax) == [] and odd_labels(rng.normal(0, 1, 5000), minmax) == []
    assert odd_labels(rng.normal(0.946, 0.047, 5000).clip(0.1, 1), minmax) == []  # LightQNet's: clipped, not marked
    assert odd_labels(rng.integers(0, 2, 500).astype(float), minmax) == []  # classes
    few = labels.copy()
    few[::50] = -1
    (said,) = odd_labels(few, minmax)
    assert said.startswith("10 labels are -1, far from the others (0.2") and said.endswith("set missing_value: -1")
    assert odd_labels(np.where(few == -1, 7, few))[0].startswith("10 labels are 7, far")
    one = np.append(labels, -1000)
    (said,) = odd_labels(one, minmax)
    assert said.startswith("min-max from -1000 to 0.8") and "leaves most labels within 1 %" in said
    assert odd_labels(one, LabelScaling("rank", True, 0, 1)) == odd_labels(one) == []


@pytest.mark.parametrize(
    ("scaling", "higher", "expected"),
    [
        ("none", 1, [2, 4, 3, 1, 3]),
        ("none", 0, [-2, -4, -3, -1, -3]),
        ("minmax", 1, [1 / 3, 1, 2 / 3, 0, 2 / 3]),
        ("minmax", 0, [2 / 3, 0, 1 / 3, 1, 1 / 3]),
        ("rank", 1, [0.25, 1, 0.625, 0, 0.625]),
        ("rank", 0, [0.75, 0, 0.375, 1, 0.375]),
    ],
)
def test_label_scaling(faces, scaling, higher, expected):
    index, coverage = build_index(faces.config(label_scaling=scaling, higher_is_better=higher))
    assert index.labels == pytest.approx(expected) and index.labels.dtype == np.float32
    assert coverage.scaling == LabelScaling(scaling, bool(higher), 1.0, 4.0)


def test_constants_come_from_the_images_in_use(faces):
    faces.write(landmarks=NAMES[2:])
    index, coverage = build_index(faces.config(label_scaling="minmax", on_missing="skip"))
    assert (coverage.scaling.low, coverage.scaling.high) == (1.0, 3.0) and sorted(index.labels.tolist()) == [0, 1, 1]


def test_equal_labels_cannot_be_scaled(faces):
    (faces.folder / "labels.csv").write_text("path,quality\n" + "".join(f'"{name}",0.5\n' for name in NAMES))
    for scaling in ("minmax", "rank"):
        with pytest.raises(DataError, match=r"all 5 labels in use are 0\.5"):
            build_index(faces.config(label_scaling=scaling))
    assert build_index(faces.config(label_scaling="none"))[0].labels.tolist() == [0.5] * 5


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), max_size=40), st.floats(0, 0.9))
def test_split_holds_out_every_nth_of_the_order(labels, val_percent):
    train, val = split(np.array(labels, np.float32), val_percent)
    assert train.dtype == val.dtype == np.int64
    assert sorted([*train, *val]) == list(range(len(labels)))
    order = sorted(range(len(labels)), key=lambda row: (labels[row], row))
    if val_percent == 0 or len(labels) < 2:
        assert len(val) == 0
    else:
        step = max(2, round(1 / val_percent)) if val_percent > 1e-6 else 10**9
        assert val.tolist() == sorted(order[::step]) and len(val) >= 1 and len(train) >= 1


def test_split_of_a_known_list():
    labels = np.array([0.9, 0.1, 0.5, 0.3, 0.7, 0.2], np.float32)
    assert split(labels, 1 / 3).val.tolist() == [1, 2]  # order 1 5 3 2 4 0, every third
    assert split(labels, 0.01).val.tolist() == [1]
