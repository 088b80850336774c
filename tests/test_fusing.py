"""prepare.py base.task=fuse: one label file of several, by the mean of the ranks."""

import numpy as np
import pytest

import prepare
from data.tables.fusing import fuse_labels
from data.tables.scores import read_scores
from utils.config.prepare import FuseConfig
from utils.errors import ConfigError, DataError


@pytest.fixture
def labels(tmp_path):
    (tmp_path / "first.csv").write_text("path,quality\na.jpg,5\nb.jpg,1\nc.jpg,3\nd.jpg,3\n", encoding="utf-8")
    (tmp_path / "second.txt").write_text("x/d.jpg 0.1\nx/c.jpg 0.2\nx/b.jpg 0.3\nx/a.jpg 0.4\n", encoding="utf-8")
    return str(tmp_path / "first.csv"), str(tmp_path / "second.txt")


@pytest.mark.parametrize(
    "more, wanted",
    [  # ranks a b c d: first 4 1 2.5 2.5, second 4 3 2 1
        ({}, [4, 2, 2.25, 1.75]),
        ({"weights": [3, 1]}, [4, 1.5, 2.375, 2.125]),
        ({"higher_is_better": [1, 0]}, [2.5, 1.5, 2.75, 3.25]),
    ],
)
def test_the_mean_of_the_ranks(labels, more, wanted):
    names, values = fuse_labels(FuseConfig(files=labels, **more))
    assert list(names) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert values == pytest.approx(np.array(wanted) / 4)


def test_ranks_do_not_know_the_scale(labels, tmp_path):
    (tmp_path / "scaled.csv").write_text("path,quality\na.jpg,99\nb.jpg,-7\nc.jpg,0\nd.jpg,0\n", encoding="utf-8")
    scaled = str(tmp_path / "scaled.csv"), labels[1]
    assert (fuse_labels(FuseConfig(files=scaled))[1] == fuse_labels(FuseConfig(files=labels))[1]).all()


def test_images_that_a_file_lacks(labels, tmp_path):
    (tmp_path / "third.csv").write_text("path,quality\na.jpg,1\nc.jpg,2\n", encoding="utf-8")
    files = (*labels, str(tmp_path / "third.csv"))
    with pytest.raises(DataError, match=r"third\.csv: 2 of 4 images .* first 'b\.jpg'.*fuse\.on_missing: skip"):
        fuse_labels(FuseConfig(files=files))
    names, values = fuse_labels(FuseConfig(files=files, on_missing="skip"))
    assert list(names) == ["a.jpg", "c.jpg"] and values == pytest.approx([(1 + 1 + 0.5) / 3, (0.5 + 0.5 + 1) / 3])


def test_the_command_writes_labels_that_training_reads(labels, tmp_path):
    (tmp_path / "c.yaml").write_text("base: {task: fuse, verbose: 0}\n", encoding="utf-8")
    given = f"fuse={{files: [{labels[0]}, {labels[1]}]}}"
    assert prepare.main(["-c", str(tmp_path / "c.yaml"), f"base.save_path={tmp_path}/out", given]) == 0
    for name in ("labels.csv", "labels.pkl"):
        found = read_scores(tmp_path / "out" / name)
        assert found.values == pytest.approx([1, 0.5, 0.5625, 0.4375])
    with pytest.raises(ConfigError, match="weights has 1 values for 2 files"):
        prepare.main(["-c", str(tmp_path / "c.yaml"), given[:-1] + ", weights: [1]}"])
