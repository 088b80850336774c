"""Every pairs format, written here by hand, and pairs drawn from identity folders."""

import itertools
import pickle
import posixpath

import numpy as np
import pytest

from data.tables.names import Names
from evaluation.pairs import lists as pair_files
from evaluation.pairs.readers import read_pairs
from evaluation.pairs.sets import Generation, PairSet, pairs_from_identities, without_repeats
from utils.errors import DataError


def folders_of(names):
    return [posixpath.dirname(name) for name in names]


def rows(pairs):
    """Return the pairs as (first name, second name, mated)."""
    names = list(pairs.names)
    return [(names[a], names[b], bool(m)) for a, b, m in zip(pairs.first, pairs.second, pairs.mated, strict=True)]


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text",
    [
        "a/1.jpg a/2.jpg 1\na/1.jpg b/1.jpg 0\n",
        "a/1.jpg,a/2.jpg,1\r\n\r\na/1.jpg,b/1.jpg,0\r\n",
        "\ufeffa/1.jpg\ta/2.jpg\t1\na/1.jpg\tb/1.jpg\t0",
    ],
)
def test_list(tmp_path, text):
    pairs = read_pairs(write(tmp_path / "pairs.txt", text), "list")
    assert rows(pairs) == [("a/1.jpg", "a/2.jpg", True), ("a/1.jpg", "b/1.jpg", False)]
    assert len(pairs.names) == 3
    assert pairs.mated_identities().tolist() == [pairs.identities[0]]
    assert pairs.identities[0] == pairs.identities[1] != pairs.identities[2]


@pytest.mark.parametrize("separator", [" ", "\t", ","])
def test_the_fast_reader_agrees_with_the_careful_one(tmp_path, separator, monkeypatch):
    rng = np.random.default_rng(0)
    names = [f"id{i % 7}/ü {i}.jpg" if separator != " " else f"id{i % 7}/ü{i}.jpg" for i in range(40)]
    lines = []
    for a, b in rng.integers(40, size=(300, 2)):
        lines.append(separator.join([names[a], names[b], str(int(a % 7 == b % 7))]))
    path = write(tmp_path / "pairs.txt", "\n".join(lines))
    fast = read_pairs(path, "list")
    assert pair_files._read_list_fast(path, titles=False) is not None
    monkeypatch.setattr(pair_files, "_read_list_fast", lambda path, titles: None)
    slow = read_pairs(path, "list")
    assert rows(fast) == rows(slow)
    assert fast.fold.tolist() == slow.fold.tolist()
    identity = [dict(zip(p.names, p.identities.tolist(), strict=True)) for p in (fast, slow)]
    same = [{(a, b): one[a] == one[b] for a in names for b in names if a in one and b in one} for one in identity]
    assert same[0] == same[1]


@pytest.mark.parametrize("text", ["a/1.jpg , a/2.jpg , 1\n", "a/1.jpg  a/2.jpg   1\n", " a/1.jpg\ta/2.jpg \t1\n"])
def test_untidy_lists_are_read_carefully(tmp_path, text):
    path = write(tmp_path / "pairs.txt", text)
    assert pair_files._read_list_fast(path, titles=False) is None
    assert rows(read_pairs(path, "list")) == [("a/1.jpg", "a/2.jpg", True)]


def test_list_with_blanks_in_names_needs_tabs(tmp_path):
    pairs = read_pairs(write(tmp_path / "p.txt", "a b/1.jpg\ta b/2, x.jpg\t1\n"), "list")
    assert rows(pairs) == [("a b/1.jpg", "a b/2, x.jpg", True)]
    with pytest.raises(DataError, match=r"line 2: .*part names that contain blanks by tabs"):
        read_pairs(write(tmp_path / "q.txt", "a b 1\na b/1.jpg a b/2.jpg 1\n"), "list")


def test_list_without_telling_folders_uses_components_of_the_mated_graph(tmp_path):
    text = "1 2 1\n3 2 1\n4 5 1\n1 4 0\n"
    pairs = read_pairs(write(tmp_path / "p.txt", text), "list")
    assert pairs.identities is None
    chain, link, other = pairs.mated_identities()
    assert chain == link != other


def test_many_equal_edges_stay_one_component(tmp_path):
    pairs = read_pairs(write(tmp_path / "p.txt", "1 2 1\n" * 256 + "3 4 1\n1 3 0\n"), "list")
    assert len(set(pairs.mated_identities())) == 2


@pytest.mark.parametrize("separator", ["\t", " "])
def test_lfw(tmp_path, separator):
    lines = [
        "2 2",
        "Ann 1 4",
        "Bo_Lee 3 12",
        "Ann 1 Bo_Lee 3",
        "Cy 1 Ann 2",
        "Cy 1 2",
        "Cy 3 2",
        "Cy 1 Ann 1",
        "Cy 2 Ann 2",
    ]
    pairs = read_pairs(write(tmp_path / "pairs.txt", "\n".join(lines).replace(" ", separator)), "lfw")
    assert rows(pairs)[:3] == [
        ("Ann/Ann_0001.jpg", "Ann/Ann_0004.jpg", True),
        ("Bo_Lee/Bo_Lee_0003.jpg", "Bo_Lee/Bo_Lee_0012.jpg", True),
        ("Ann/Ann_0001.jpg", "Bo_Lee/Bo_Lee_0003.jpg", False),
    ]
    assert pairs.fold.tolist() == [0] * 4 + [1] * 4
    assert len(set(pairs.mated_identities())) == 3
    with pytest.raises(DataError, match="line 2"):
        read_pairs(write(tmp_path / "bad.txt", "1\t1\nAnn\tx\t4\n"), "lfw")


def cfp(tmp_path):
    base = tmp_path / "cfp"
    write(
        base / "Protocol/Pair_list_F.txt", "1 ../Data/Images/001/frontal/01.jpg\n2 ../Data/Images/002/frontal/05.jpg\n"
    )
    write(
        base / "Protocol/Pair_list_P.txt", "1 ../Data/Images/001/profile/01.jpg\n2 ../Data/Images/002/profile/04.jpg\n"
    )
    for fold in ("01", "02"):
        write(base / f"Protocol/Split/FP/{fold}/same.txt", "1,1\n2,2\n")
        write(base / f"Protocol/Split/FP/{fold}/diff.txt", "1,2\n")
        write(base / f"Protocol/Split/FF/{fold}/same.txt", "2,2\n")
        write(base / f"Protocol/Split/FF/{fold}/diff.txt", "2,1\n")
    return base


def test_cfp_indexes_frontal_and_profile_lists(tmp_path):
    for path in (cfp(tmp_path), tmp_path / "cfp/Protocol"):
        pairs = read_pairs(path, "cfp_fp")
        assert rows(pairs)[:3] == [
            ("Data/Images/001/frontal/01.jpg", "Data/Images/001/profile/01.jpg", True),
            ("Data/Images/002/frontal/05.jpg", "Data/Images/002/profile/04.jpg", True),
            ("Data/Images/001/frontal/01.jpg", "Data/Images/002/profile/04.jpg", False),
        ]
        assert pairs.fold.tolist() == [0, 0, 0, 1, 1, 1]
        assert len(set(pairs.mated_identities())) == 2, "the identity is the number, not the folder `frontal`"
    frontal = read_pairs(tmp_path / "cfp", "cfp_ff")
    assert rows(frontal)[1] == ("Data/Images/002/frontal/05.jpg", "Data/Images/001/frontal/01.jpg", False)
    write(tmp_path / "cfp/Protocol/Split/FP/02/diff.txt", "1,9\n")
    with pytest.raises(DataError, match=r"diff.txt, line 1"):
        read_pairs(tmp_path / "cfp", "cfp_fp")


def adience(tmp_path):
    header = "user_id\toriginal_image\tface_id\tage\n"
    people = [("u1", "10"), ("u2", "11"), ("u2", "12")]
    for fold, (user, face) in enumerate(people):
        lines = "".join(f"{user}\timg_{n}.jpg\t{face}\t(25, 32)\n" for n in range(3))
        write(tmp_path / f"folds/fold_{fold}_data.txt", header + lines)
    return tmp_path / "folds"


def test_adience_identity_is_the_face_id(tmp_path):
    pairs = read_pairs(adience(tmp_path), "adience", draw=Generation(non_mated=5, seed=1))
    assert pairs.mated.sum() == 9 and (~pairs.mated).sum() == 5
    assert pairs.names[0] == "u1/landmark_aligned_face.10.img_0.jpg"
    faces = [name.split(".")[1] for name in pairs.names]
    for a, b, mated in zip(pairs.first, pairs.second, pairs.mated, strict=True):
        assert (faces[a] == faces[b]) == mated
    assert len(set(pairs.mated_identities())) == 3


def test_adience_takes_the_naming_found_below_root(tmp_path):
    write(tmp_path / "root/faces/u1/coarse_tilt_aligned_face.10.img_0.jpg", "")
    pairs = read_pairs(adience(tmp_path), "adience", tmp_path / "root", Generation(non_mated=5))
    assert pairs.names[0] == "u1/coarse_tilt_aligned_face.10.img_0.jpg"


@pytest.mark.parametrize("as_array", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
def test_bin(tmp_path, protocol, as_array):
    images = [b"A1", b"A2", b"A2", b"A3", b"B1", b"A1", b"C", b"D"]
    content = [np.frombuffer(image, np.uint8) for image in images] if as_array else images
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps((content, [True, True, False, False]), protocol=protocol))
    pairs = read_pairs(path, "bin")
    assert rows(pairs)[0] == ("000000.jpg", "000001.jpg", True)
    assert rows(pairs)[2] == ("000004.jpg", "000005.jpg", False)
    assert list(pairs.images) == images
    first, second = pairs.mated_identities()
    assert first == second, "both pairs hold the image A2"


def test_bin_written_by_python_2(tmp_path):
    """Opcodes by hand: PROTO 2, two SHORT_BINSTRINGs in a list, [True], TUPLE2, STOP."""
    path = tmp_path / "old.bin"
    path.write_bytes(b"\x80\x02](U\x02\xff\xd8U\x02B2e]\x88a\x86.")
    pairs = read_pairs(path, "bin")
    assert list(pairs.images) == [b"\xff\xd8", b"B2"] and pairs.mated.tolist() == [True]


def test_bin_refuses_code_and_other_content(tmp_path):
    class Hostile:
        def __reduce__(self):
            return print, ("run",)

    for name, content in (("hostile.bin", Hostile()), ("other.bin", ([b"a"], [True])), ("dict.bin", {"a": 1})):
        (tmp_path / name).write_bytes(pickle.dumps(content))
        with pytest.raises(DataError, match=name):
            read_pairs(tmp_path / name, "bin")


def population(sizes):
    return [f"id{i:03d}/{n}.jpg" for i, size in enumerate(sizes) for n in range(size)]


def test_all_pairs_of_small_identities_and_a_cap_for_large_ones():
    names = population([1, 2, 5, 30])
    pairs = pairs_from_identities(names, folders_of(names), Generation(50, 100, seed=3))
    got = [(a, b) for a, b, mated in rows(pairs) if mated]
    small = [pair for i in (1, 2) for pair in itertools.combinations(sorted(n for n in names if f"id00{i}" in n), 2)]
    assert got[: len(small)] == small
    large = got[len(small) :]
    assert len(large) == len(set(large)) == 50 and all(a < b and "id003" in a and "id003" in b for a, b in large)


def test_non_mated_pairs_are_different_and_as_many_as_wanted():
    names = population([3] * 40)
    pairs = pairs_from_identities(names, folders_of(names), Generation(50, 2000, seed=0))
    other = [(a, b) for a, b, mated in rows(pairs) if not mated]
    assert len(other) == len({frozenset(pair) for pair in other}) == 2000
    assert all(a.split("/")[0] != b.split("/")[0] for a, b in other)


@pytest.mark.parametrize(("wanted", "given"), [(4, 4), (7, 7), (8, 8), (1000, 8)])
def test_few_available_non_mated_pairs(wanted, given):
    names = population([2, 1, 2])
    pairs = pairs_from_identities(names, folders_of(names), Generation(50, wanted, seed=0))
    assert (~pairs.mated).sum() == given == len({(a, b) for a, b, m in rows(pairs) if not m})


def test_drawing_depends_on_the_seed_and_not_on_the_order_of_the_names():
    names = population([12] * 30)
    draw = Generation(20, 500, seed=7)
    one = pairs_from_identities(names, folders_of(names), draw)
    two = pairs_from_identities(names[::-1], folders_of(names[::-1]), draw)
    other = pairs_from_identities(names, folders_of(names), draw._replace(seed=8))
    assert rows(one) == rows(two) != rows(other)
    assert np.bincount(one.fold).tolist() == [110] * 10


def test_capped_draw_reaches_every_pair():
    names = population([6, 1])
    seen = {
        pair[:2]
        for seed in range(60)
        for pair in rows(pairs_from_identities(names, folders_of(names), Generation(3, 1, seed)))
        if pair[2]
    }
    assert seen == set(itertools.combinations(names[:6], 2))


def test_useless_populations_are_refused():
    with pytest.raises(DataError, match="no identity has two images"):
        pairs_from_identities(["a/1", "b/1"], ["a", "b"], Generation())
    with pytest.raises(DataError, match="1 identities"):
        pairs_from_identities(["a/1", "a/2"], ["a", "a"], Generation())
    with pytest.raises(DataError, match="no such pairs file"):
        read_pairs("nowhere.txt", "list")


def test_empty_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no pair"):
        read_pairs(write(tmp_path / "p.txt", "\n\n"), "list")


def test_pairs_of_one_image_and_repeated_ones_are_left_out_and_named():
    names = Names.from_strings(["a/1", "a/2", "b/1", "b/2"])
    first, second = np.array([0, 1, 2, 0, 2, 3, 1]), np.array([1, 0, 2, 2, 3, 2, 3])
    mated = np.array([True, True, True, False, True, False, False])
    pairs = PairSet(names, first, second, mated, np.arange(7, dtype=np.int32))
    kept, remarks = without_repeats(pairs)
    assert kept.fold.tolist() == [0, 3, 6] and kept.mated.tolist() == [True, False, False]
    assert remarks == [
        "left out 1 pairs of an image with itself, first 'b/1' with 'b/1'",
        "left out 2 pairs listed as mated and as non-mated, first 'b/1' with 'b/2'",
        "left out 1 pairs listed before, first 'a/2' with 'a/1'",
    ]
    same, none = without_repeats(kept)
    assert same is kept and none == []
