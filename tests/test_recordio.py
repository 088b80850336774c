"""train.rec + train.idx, written here by an independent writer, read back exactly."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.images.decode import ImageError
from data.sources.recordio import RecordFile, open_records
from tests.helpers.recognition import MAGIC, packed, write_face_records, write_identities, write_records
from utils.errors import DataError


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_identities(tmp_path_factory.mktemp("faces"), identities=3, images=4)


def refused(call, *args):
    with pytest.raises(DataError) as error:
        call(*args)
    message = str(error.value)
    assert "\n" not in message and not message.endswith(".")
    return message


def test_images_and_identities_are_read_back_exactly(tmp_path, images):
    write_face_records(tmp_path / "train.rec", images)
    source = open_records(tmp_path)  # the folder of train.rec
    assert len(source) == 12
    assert source.identities.tolist() == [identity for _, identity in images]
    assert [source.read(row) for row in range(12)] == [path.read_bytes() for path, _ in images]
    assert source.describe(4).endswith("train.rec, record 5")


payloads = st.lists(
    st.lists(st.one_of(st.binary(max_size=7), st.just(MAGIC), st.just(MAGIC * 2)), max_size=6).map(b"".join),
    min_size=1,
    max_size=6,
)


@settings(max_examples=150, deadline=None)
@given(payloads, st.integers(0, 3))
def test_any_bytes_survive_also_where_they_hold_the_magic(tmp_path_factory, contents, flags):
    folder = tmp_path_factory.mktemp("rec")
    labels = [float(i) if flags == 0 else [i + j / 2 for j in range(flags)] for i in range(len(contents))]
    write_records(folder / "a.rec", [packed(label, data) for label, data in zip(labels, contents, strict=True)])
    file = RecordFile(folder / "a.rec")
    for place, (label, data) in enumerate(zip(labels, contents, strict=True)):
        record = file.read(place)
        assert record.payload == data
        assert record.labels.tolist() == (label if flags else [label])
    first = [label if flags == 0 else label[0] for label in labels]
    assert file.first_labels(np.arange(len(contents))).tolist() == first


def test_keys_may_come_in_any_order_and_gaps(tmp_path):
    write_records(tmp_path / "a.rec", [packed(7.0, b"x" * 40), packed(5.0, b"y" * 40)], keys=[9, 0])
    source = open_records(tmp_path / "a.rec")  # record 0 holds an image: no header, every key is one
    assert source.identities.tolist() == [5, 7]
    assert [source.read(row) for row in (0, 1)] == [b"y" * 40, b"x" * 40]


def test_a_list_of_images_may_begin_with_1(tmp_path):
    write_records(tmp_path / "a.rec", [packed(7.0, b"x" * 40), packed(5.0, b"y" * 40)], keys=[1, 2])
    source = open_records(tmp_path / "a.rec")
    assert source.identities.tolist() == [7, 5] and list(source.names) == ["1", "2"]


def test_magic_inside_an_image_record(tmp_path):
    body = b"\xff\xd8" + b"ab" + MAGIC + b"tail"
    assert len(packed(1.0, body)) % 4 == 0
    write_records(tmp_path / "a.rec", [packed([3, 4], b""), packed(1.0, body), packed(2.0, MAGIC + MAGIC)])
    source = open_records(tmp_path / "a.rec")
    assert source.identities.tolist() == [1, 2]
    assert [source.read(0), source.read(1)] == [body, MAGIC + MAGIC]


def test_pickles_small_and_reads_again(tmp_path, images):
    write_face_records(tmp_path / "train.rec", images)
    source = open_records(tmp_path / "train.rec")
    source.read(0)
    data = pickle.dumps(source)
    assert len(data) < 5000
    again = pickle.loads(data)
    assert again.read(11) == images[11][0].read_bytes()


def test_a_cut_off_file_names_the_record(tmp_path, images):
    write_face_records(tmp_path / "train.rec", images)
    whole = (tmp_path / "train.rec").read_bytes()
    offsets = [int(line.split("\t")[1]) for line in (tmp_path / "train.idx").read_text().splitlines()]
    last = max(row for row, at in enumerate(offsets[:13]) if at < len(whole))
    for size in (offsets[last] + 4, offsets[last] + 20, offsets[last] + 500):
        (tmp_path / "train.rec").write_bytes(whole[:size])
        assert f"cut off within record {last}" in refused(open_records, tmp_path)
    (tmp_path / "train.rec").write_bytes(whole[: offsets[5] + 100])
    assert "cut off within record 5" in refused(open_records, tmp_path)
    (tmp_path / "train.rec").write_bytes(whole[: offsets[6]])
    assert "cut off within record 6" in refused(open_records, tmp_path)
    (tmp_path / "train.rec").write_bytes(b"")
    assert "cut off within record 0" in refused(open_records, tmp_path)


def test_files_that_do_not_belong_together(tmp_path, images):
    write_face_records(tmp_path / "train.rec", images)
    lines = (tmp_path / "train.idx").read_text().splitlines()
    key, offset = lines[3].split("\t")
    lines[3] = f"{key}\t{int(offset) + 4}"
    (tmp_path / "train.idx").write_text("\n".join(lines))
    assert "no record 3 begins" in refused(open_records, tmp_path)


def test_damage_inside_a_record_is_an_image_error(tmp_path, images):
    write_face_records(tmp_path / "train.rec", images)
    source = open_records(tmp_path)
    data = bytearray((tmp_path / "train.rec").read_bytes())
    at = int(source.file.offsets[2])
    data[at : at + 4] = b"\0\0\0\0"
    (tmp_path / "train.rec").write_bytes(data)
    with pytest.raises(ImageError, match="no record 2 begins"):
        pickle.loads(pickle.dumps(source)).read(1)


def test_malformed_indexes(tmp_path, images):
    write_face_records(tmp_path / "train.rec", images)
    good = (tmp_path / "train.idx").read_text()
    cases = {
        "": "",
        "a\tb\n": "not an index",
        "1 2 3\n": "not an index",
        good + "4\t0\n": "key 4 appears twice",
        good.replace("2\t", "2\t-", 1): "negative offset",
        "\n".join(good.splitlines()[1:]): "no record 0",
        "\n".join(line for line in good.splitlines() if not line.startswith("5\t")): "record 5 is missing",
    }
    for text, words in cases.items():
        (tmp_path / "train.idx").write_text(text)
        assert words in refused(open_records, tmp_path)
    (tmp_path / "train.idx").unlink()
    assert "no such index" in refused(open_records, tmp_path)
    assert "no such record file" in refused(open_records, tmp_path / "none.rec")


def test_labels_that_are_no_identity(tmp_path):
    for label in (-1.0, 0.5, float("nan")):
        write_records(tmp_path / "a.rec", [packed([2, 3], b""), packed(label, b"image")])
        assert "record 1 has label" in refused(open_records, tmp_path / "a.rec")
