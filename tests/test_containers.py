"""Images in lists, archives, .bin, parquet and shards: the same images under the same names, wherever they lie."""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import train_main
from data.images.decode import ImageError
from data.sources.members import MemberSource
from data.sources.memory import MemorySource
from data.sources.registry import open_source
from data.sources.shards import expand
from tests.helpers import processes, training
from tests.helpers.containers import write_all, write_bin, write_parquet, write_tar, write_zip
from tests.helpers.images import crop_pixels, jpeg_bytes, png_bytes
from tests.helpers.inference import infer, rows_of, write_setup
from utils.errors import DataError

IMAGES = {"b/2.jpg": b"two" * 999, "a/1.PNG": b"one", "a/10.jpg": b"", "../up.jpg": b"up", "ä/x y.webp": b"z" * 2000}
SORTED = sorted(IMAGES, key=os.fsencode)


def contents(source):
    """Return name -> bytes, or the reason why there are none."""
    found = {}
    for row, name in enumerate(source.names):
        try:
            found[name] = source.read(row)
        except ImageError as error:
            found[name] = str(error)
    return found


def assert_holds(source, images=IMAGES):
    assert list(source.names) == sorted(images, key=os.fsencode) and contents(source) == images
    some = pickle.loads(pickle.dumps(source)).take(np.array([2, 0]))
    names = sorted(images, key=os.fsencode)
    assert list(some.names) == [names[2], names[0]]
    assert [some.read(0), some.read(1)] == [images[names[2]], images[names[0]]]


@pytest.mark.parametrize("write", [write_tar, write_zip], ids=["tar", "zip"])
def test_members_of_an_archive(tmp_path, write):
    suffix = write.__name__[-3:]
    path = write(tmp_path / f"all.{suffix}", {**IMAGES, "notes.txt": b"?", "a/.hidden": b""})
    source = open_source(path)
    assert_holds(source)
    assert source.other_files == 2 and source.describe(0) == f"{path}, {SORTED[0]}"
    assert not (tmp_path / "up.jpg").exists() and os.listdir(tmp_path) == [path.name]


def test_a_stored_zip_and_one_packed_otherwise(tmp_path):
    assert_holds(open_source(write_zip(tmp_path / "a.zip", IMAGES, zipfile.ZIP_STORED)))
    found = contents(open_source(write_zip(tmp_path / "b.zip", {"x.jpg": b"x" * 99}, zipfile.ZIP_LZMA)))
    assert found == {"x.jpg": "packed by method 14, neither stored nor deflated"}


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_images_of_a_bin_are_read_by_their_offsets(tmp_path, protocol):
    images = {f"{row:06d}": bytes([row]) * (300 * row + 1) for row in range(6)}
    source = open_source(write_bin(tmp_path / "lfw.bin", images, protocol))
    assert isinstance(source, MemberSource if protocol > 2 else MemorySource)
    assert_holds(source, images)


def test_a_bin_of_arrays_stays_in_memory(tmp_path):
    arrays = [np.frombuffer(b"ab", np.uint8), np.frombuffer(b"cde", np.uint8)]
    (tmp_path / "x.bin").write_bytes(pickle.dumps((arrays, [False])))
    assert contents(open_source(tmp_path / "x.bin")) == {"000000": b"ab", "000001": b"cde"}


def test_parquet_with_structs_bytes_and_without_names(tmp_path):
    whole = {name: content for name, content in IMAGES.items() if content}
    assert_holds(open_source(write_parquet(tmp_path / "a.parquet", whole, group=2)), whole)
    content = [b"x", None, b"z"]
    pq.write_table(pa.table({"id": ["c", "b", "a"], "jpg": pa.array(content, pa.binary())}), tmp_path / "b.parquet")
    assert contents(open_source(tmp_path / "b.parquet")) == {
        "a": b"z",
        "b": "no bytes of an image in this row",
        "c": b"x",
    }
    pq.write_table(pa.table({"image": pa.array(content[::2], pa.binary()), "name": ["s", "s"]}), tmp_path / "c.parquet")
    assert contents(open_source(tmp_path / "c.parquet")) == {"000000": b"x", "000001": b"z"}
    pq.write_table(pa.table({"path": ["a"], "quality": [0.5]}), tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"no column holds images.*columns: path, quality"):
        open_source(tmp_path / "d.parquet")


def test_a_list_of_paths(tmp_path, monkeypatch):
    plain = {name: content for name, content in IMAGES.items() if name[0] != "."}
    for name, content in plain.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "list.txt").write_text("\ufeff" + "\r\n\n".join(plain), encoding="utf-8")
    assert_holds(open_source(tmp_path / "list.txt"), plain)
    (tmp_path / "lists").mkdir()
    (tmp_path / "list.txt").rename(tmp_path / "lists/l.txt")
    monkeypatch.chdir(tmp_path)  # as CR-FIQA's are read
    assert_holds(open_source("lists/l.txt"), plain)
    absolute = {str(tmp_path / name): content for name, content in plain.items()}
    (tmp_path / "lists/l.txt").write_text("\n".join(absolute), encoding="utf-8")
    assert_holds(open_source("lists/l.txt"), absolute)
    (tmp_path / "lists/l.txt").write_text(f"/x.jpg\n{next(iter(plain))}\n")
    with pytest.raises(DataError, match="some paths are absolute"):
        open_source("lists/l.txt")
    (tmp_path / "lists/l.txt").write_text("x.jpg\ny.jpg\nx.jpg\n")
    with pytest.raises(DataError, match=r"1 lines stand more than once, first 'x\.jpg'"):
        open_source("lists/l.txt")
    assert contents(open_source(tmp_path / "b/2.jpg")) == {"2.jpg": IMAGES["b/2.jpg"]}


def test_shards_are_one_source(tmp_path):
    for number in range(8, 11):
        part = dict(list(IMAGES.items())[number - 8 :: 3])
        write_tar(tmp_path / f"s{number:02d}.tar", {**part, "x.json": b""})
    for pattern in ("s{08..10}.tar", "s*.tar"):
        source = open_source(tmp_path / pattern)
        assert_holds(source)
        assert source.other_files == 3
    (tmp_path / "s09.tar").rename(tmp_path / "t.tar")
    with pytest.raises(DataError, match=r"s09\.tar: no such file, which .*s\{08\.\.10\}\.tar stands for"):
        open_source(tmp_path / "s{08..10}.tar")
    write_tar(tmp_path / "s09.tar", {"b/2.jpg": b"?"})
    with pytest.raises(DataError, match=r"s09\.tar: holds 'b/2\.jpg', as .*s08\.tar does"):
        open_source(tmp_path / "s*.tar")


def test_ranges_keep_their_zeros(tmp_path):
    names = ["a0-00.zip", "a0-01.zip", "a1-00.zip", "a1-01.zip"]
    for name in names:
        (tmp_path / name).touch()
    assert [Path(path).name for path in expand(tmp_path / "a{0..1}-{00..01}.zip")] == names
    with pytest.raises(DataError, match=r"none-\*: no such file"):
        expand(tmp_path / "none-*")


def test_a_list_gives_names(tmp_path):
    path = write_bin(tmp_path / "x.bin", {"0": b"first", "1": b"second"})
    (tmp_path / "names.txt").write_text("z/1.jpg\na/2.jpg\n")
    source = open_source(path, str(tmp_path / "names.txt"))
    assert contents(source) == {"a/2.jpg": b"second", "z/1.jpg": b"first"} and source.names[0] == "a/2.jpg"
    assert source.describe(0) == f"{path}, 000001 (a/2.jpg)"
    (tmp_path / "names.txt").write_text("a\n")
    with pytest.raises(DataError, match="has 1 names for the 2 images"):
        open_source(path, str(tmp_path / "names.txt"))


@pytest.mark.parametrize("names", [["a.jpg", "b.jpg"], ["1.jpg", "2.jpg"], ["2", "10"]])
def test_images_that_have_names_are_given_no_others(tmp_path, names):
    """A list in another order would call each image by the name of another."""
    path = write_tar(tmp_path / "x.tar", dict.fromkeys(names, jpeg_bytes(crop_pixels(1))))
    (tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in names))
    with pytest.raises(DataError, match=r"its images have names, first .*leave .*names.txt out$"):
        open_source(path, str(tmp_path / "names.txt"))


@pytest.mark.parametrize("kind", ["tar", "zip", "bin", "parquet"])
def test_a_fingerprint_follows_the_file(tmp_path, kind):
    write = {"tar": write_tar, "zip": write_zip, "bin": write_bin, "parquet": write_parquet}[kind]
    images = {"a.jpg": b"1", "b.jpg": b"2"}
    path = write(tmp_path / f"x.{kind}", images)
    source = open_source(path)
    before, stamp = source.fingerprint(), path.stat().st_mtime_ns
    assert open_source(path).fingerprint() == before != source.take(np.array([0])).fingerprint()
    (tmp_path / "moved").mkdir()
    moved = path.rename(tmp_path / "moved" / path.name)
    assert open_source(moved).fingerprint() == before
    os.utime(moved, ns=(0, stamp + 1))
    assert open_source(moved).fingerprint() != before


# ---- damage


def test_the_last_of_two_members_of_one_name_counts(tmp_path, caplog):
    import tarfile

    write_tar(tmp_path / "x.tar", {"a.jpg": b"old", "b.jpg": b"b"})
    with tarfile.open(tmp_path / "x.tar", "a") as archive:
        (tmp_path / "new").write_bytes(b"new!")
        archive.add(tmp_path / "new", "a.jpg")
    assert contents(open_source(tmp_path / "x.tar")) == {"a.jpg": b"new!", "b.jpg": b"b"}
    assert "1 members were added again under the same name, first 'a.jpg'" in caplog.text


def test_a_tar_that_is_cut_off_loses_its_last_image_only(tmp_path, caplog):
    path = write_tar(tmp_path / "x.tar", {"a.jpg": b"a" * 600, "b.jpg": b"b" * 600})
    os.truncate(path, 512 + 1024 + 512 + 100)
    found = contents(open_source(path))
    assert found["a.jpg"] == b"a" * 600 and found["b.jpg"] == "cut off: x.tar ends 500 bytes before it does"
    assert "cut off, it has 2148 bytes; fetch it again" in caplog.text


def test_damage_between_members_of_a_tar_is_an_error(tmp_path):
    path = write_tar(tmp_path / "x.tar", {"a.jpg": b"a", "b.jpg": b"b"})
    content = bytearray(path.read_bytes())
    content[1024:1536] = b"\x07" * 512  # the second member's header
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.tar: damaged at byte 1024, where no member begins; fetch it again"):
        open_source(path)


def test_joined_tars_are_told(tmp_path, caplog):
    first = write_tar(tmp_path / "x.tar", {"a.jpg": b"a"}).read_bytes()
    (tmp_path / "x.tar").write_bytes(first + write_tar(tmp_path / "y.tar", {"b.jpg": b"b"}).read_bytes())
    assert contents(open_source(tmp_path / "x.tar")) == {"a.jpg": b"a"}
    assert "of joined archives only the first is read" in caplog.text


def test_damaged_members_of_a_zip_are_failures(tmp_path):
    path = write_zip(tmp_path / "x.zip", {name: name.encode() * 99 for name in ("a.jpg", "b.jpg", "c.jpg")})
    with zipfile.ZipFile(path) as archive:
        starts = [member.header_offset for member in archive.infolist()]
    content = bytearray(path.read_bytes())
    content[starts[0] + 40] ^= 0xFF  # in the packed data
    content[starts[1]] = 0
    content[starts[2] + 6] |= 1
    path.write_bytes(content)
    found = contents(open_source(path))
    assert found["a.jpg"].startswith("damaged: ") and found["b.jpg"].startswith("damaged: no member begins at byte")
    assert found["c.jpg"] == "encrypted"


@pytest.mark.parametrize("suffix", [".tar", ".zip", ".parquet", ".bin"])
def test_a_file_that_is_no_container_is_named(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    for content in (b"", b"no such thing" * 99):
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            open_source(path)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


# ---- scores


@pytest.fixture
def stored(tmp_path):
    """Write 12 images, two of them broken, in every container, and the setup of a run."""
    write_setup(tmp_path)
    images = {f"id{n % 3}/{n:02d}.png": png_bytes(crop_pixels(n)) for n in range(9)}
    images["id0/j.jpg"] = jpeg_bytes(crop_pixels(20))
    images["id1/broken.jpg"] = images["id0/j.jpg"][:300]
    images["id2/text.png"] = b"text"
    return tmp_path, write_all(tmp_path / "stored", images)


FILES = ("quality-scores.csv", "failures.csv", "quality-scores.txt", "quality-scores.parquet")


def test_every_container_gives_the_same_scores_for_the_same_names(stored):
    folder, ways = stored
    found = {}
    for way, overrides in ways.items():
        out = folder / way
        assert (
            infer(folder, *overrides, f"base.save_path={out}", "output.formats=[txt, parquet]", "base.verbose=0") == 0
        )
        found[way] = {name: (out / name).read_bytes() for name in FILES}
    assert len(rows_of(folder / "folder/quality-scores.csv")) == 10
    assert [row["path"] for row in rows_of(folder / "folder/failures.csv")] == ["id1/broken.jpg", "id2/text.png"]
    for way in ways:
        assert found[way] == found["folder"], way


@pytest.mark.parametrize("way", ["tar", "parquet"])
def test_containers_are_scored_by_two_processes_and_after_a_kill(stored, way):
    folder, ways = stored
    arguments = ["-c", str(folder / "inference_config.yaml"), *ways[way]]
    arguments += ["base.verbose=0", "dataloader.params.batch_size=2"]
    killed = [*arguments, f"base.save_path={folder}/killed"]
    processes.killed(2, processes.APPEND, "inference.py", *killed)
    assert infer(folder, *killed[2:]) == 0
    codes, said = processes.finished_in_two("inference.py", *arguments, f"base.save_path={folder}/two")
    assert codes == [0, 0], said
    assert infer(folder, *ways["folder"], "base.verbose=0", "dataloader.params.batch_size=2") == 0
    for name in FILES[:2]:
        whole = (folder / "out" / name).read_bytes()
        assert (folder / "killed" / name).read_bytes() == whole == (folder / "two" / name).read_bytes()


def test_training_reads_any_container_of_the_same_images(tmp_path):
    config = training.write_setup(tmp_path, count=24)
    images = {
        path.relative_to(tmp_path / "images").as_posix(): path.read_bytes()
        for path in sorted((tmp_path / "images").rglob("*.jpg"))
    }
    write_tar(tmp_path / "images.tar", images)
    write_zip(tmp_path / "images.zip", images)
    write_parquet(tmp_path / "images.parquet", images)
    trained = {}
    for place in ("images", "images.tar", "images.zip", "images.parquet"):
        run = tmp_path / f"run_{place}"
        changes = ("base.epochs=1", f"base.save_path={run}", f"dataset.image_location={tmp_path / place}")
        assert train_main.main(["-c", str(config), *changes]) == 0
        trained[place] = training.tensors(run / "aikd-last.pth")
    assert all(training.same_bytes(trained["images"], other) for other in trained.values())
