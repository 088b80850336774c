"""data/tables/names.py and data/tables/join.py: compact names, and the rule by which two tables are joined."""

import pickle
import re
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.tables.join import duplicates, join, normalise
from data.tables.names import Names
from utils.errors import DataError

table = Names.from_strings


def joined(wanted, have, key_root=None):
    return join(table(wanted), table(have), key_root)


@settings(deadline=None)
@given(st.lists(st.text(max_size=8)), st.randoms())
def test_a_table_holds_its_strings(strings, random):
    keys = table(strings)
    assert list(keys) == strings and len(keys) == len(strings)
    rows = [random.randrange(len(strings)) for _ in strings]
    assert list(keys.take(np.array(rows, np.int64))) == [strings[row] for row in rows]
    order = keys.order()
    encoded = [s.encode() for s in strings]
    assert [encoded[i] for i in (range(len(strings)) if order is None else order)] == sorted(encoded)
    assert list(pickle.loads(pickle.dumps(keys))) == strings


def test_names_that_are_no_utf_8_survive():
    raw = [b"caf\xe9.jpg", b"a/\xff\xfe.jpg"]
    keys = table(raw)
    assert [key.encode("utf-8", "surrogateescape") for key in keys] == raw
    assert list(table(list(keys))) == list(keys)


def test_indexing_like_a_list():
    keys = table(["a", "", "ccc"])
    assert keys[-1] == "ccc" and keys[1] == ""
    with pytest.raises(IndexError):
        keys[3]


def test_taken_and_sliced_tables_are_trimmed():
    array = pa.array(["aa", "bbb", "c"]).slice(1)
    keys = Names.from_arrow(array)
    assert list(keys) == ["bbb", "c"] and keys.offsets.tolist() == [0, 3, 4] and len(keys.data) == 4
    assert len(table(["aaaa", "b"]).take(np.array([1])).data) == 1


def test_a_digest_depends_on_every_name_and_the_order():
    digests = {table(names).digest() for names in (["a", "b"], ["b", "a"], ["ab"], ["", "ab"], ["a", "b", ""])}
    assert len(digests) == 5 and table(["a", "b"]).digest() == table(["x", "a", "b"]).take(np.array([1, 2])).digest()


@pytest.mark.parametrize(
    "have",
    [
        ["n1/b.jpg", "n2/c.jpg", "n1/a.jpg"],
        ["n1/b", "n2/c", "n1/a"],
        ["train/n1/b.jpg", "train/n2/c.jpg", "train/n1/a.jpg"],
        ["train/n1/b", "train/n2/c", "train/n1/a"],
        ["test/n1/b", "train/n2/c", "train/n1/a"],
        ["/data/vggface2/train/n1/b.jpg", "/data/vggface2/train/n2/c.jpg", "/data/vggface2/train/n1/a.jpg"],
        ["n1/b.png", "n2/c.PNG", "n1/a.webp"],
        ["./n1/b.jpg", ".//n2/./c.jpg", "n1//a.jpg"],
        ["D:\\vgg\\n1\\b.jpg", "D:\\vgg\\n2\\c.jpg", "D:\\vgg\\n1\\a.jpg"],
    ],
)
@pytest.mark.parametrize(
    "wanted", [["n1/a.jpg", "n1/b.jpg", "n2/c.jpg"], ["n1/a.JPG", "n1/b.jpeg", "n2/c.tif"], ["n1/a", "n1/b", "n2/c"]]
)
def test_same_faces_under_every_kind_of_name(wanted, have):
    assert joined(wanted, have).rows.tolist() == [2, 0, 1]
    assert joined(have, wanted).rows.tolist() == [1, 2, 0]
    assert joined(wanted, have).rows.dtype == np.int64


def test_images_below_train_and_test_match_names_without_them():
    found = joined(["test/n9/z.jpg", "train/n1/a.jpg"], ["n1/a", "n9/z"])
    assert found.rows.tolist() == [1, 0] and (found.wanted_folders, found.have_folders) == (1, 0)


def test_different_root_folders_on_both_sides():
    assert joined(["train/n1/a.jpg"], ["vggface2/n1/a"]) == (np.array([0]), 1, 1)
    assert joined(["train/a.jpg"], ["vggface2/a"]).rows.tolist() == [-1]  # no folder would be left


def test_the_number_of_dropped_folders_that_matches_most_wins_and_the_smallest_at_a_tie():
    found = joined(["a/1", "a/2", "b/a/1"], ["x/a/1", "a/1", "x/a/2", "x/b/a/1"])
    assert found.have_folders == 1 and found.rows.tolist() == [0, 2, 3]
    tie = joined(["n/1", "n/2"], ["n/1", "x/n/2"])
    assert tie.have_folders == 0 and tie.rows.tolist() == [0, -1]


def test_a_key_root_is_removed_where_it_stands_and_nothing_else_is_found():
    names = ["n1/a.jpg", "n1/b.jpg"]
    for root in ("data/vgg", "/data/vgg/", "./data//vgg", "data\\vgg"):
        assert joined(names, ["/data/vgg/n1/b.jpg", "n1/a"], root).rows.tolist() == [1, 0]
        assert joined(["data/vgg/n1/a"], ["n1/a"], root).rows.tolist() == [0]
        assert joined(names, ["Data/vgg/n1/b.jpg"], root).rows.tolist() == [-1, -1]
        assert joined(names, ["data/vggface/n1/b.jpg"], root).rows.tolist() == [-1, -1]
    assert joined(names, ["train/n1/a"], "").rows.tolist() == [-1, -1]


@pytest.mark.parametrize("further", ["x.jpg", "caf\udce9.jpg"])
def test_names_meet_in_any_unicode_form(further):
    names = ["Zoë_Ångström/1.jpg", "한/2.jpg", "plain/3.jpg", further]
    apart = [unicodedata.normalize("NFD", name) for name in names]
    assert apart[:2] != names[:2]
    for wanted, have in ((apart, names), (names, apart)):
        assert joined(wanted, have).rows.tolist() == [0, 1, 2, 3]
    assert duplicates(table([names[0], apart[0]])).tolist() == [[0, 1]]


def test_names_that_differ_in_the_suffix_alone_are_told_apart_by_it():
    assert joined(["n/a.jpg", "n/a.png"], ["n/a.png", "n/a.jpg"]).rows.tolist() == [1, 0]
    assert joined(["n/a.jpg", "n/a.png", "n/b.jpg"], ["n/a.png", "n/b"]).rows.tolist() == [-1, 0, 1]
    assert joined(["n/a.png"], ["n/a.bmp", "n/a.png"]).rows.tolist() == [1]


def test_a_large_folder_may_hold_every_image_in_two_formats():
    stems = [f"identity_{i // 50:06d}/{i:06d}" for i in range(30_000)]
    wanted = [f"{stem}{suffix}" for stem in stems for suffix in (".jpg", ".png")]
    found = joined(wanted, [f"train/{stem}.png" for stem in stems]).rows
    assert found[1::2].tolist() == list(range(30_000)) and (found[::2] == -1).all()


@pytest.mark.parametrize(
    ("wanted", "have", "named"),
    [
        (["n/a.jpg", "n/a.png"], ["n/a"], ["'n/a.jpg'", "'n/a.png'"]),
        (["n/a.jpg"], ["n/a.png", "n/a.bmp"], ["'n/a.png'", "'n/a.bmp'"]),
        (["n/a.jpg"], ["train/n/a.jpg", "test/n/a.jpg"], ["'train/n/a.jpg'", "'test/n/a.jpg'"]),
        (["train/n/a.jpg", "test/n/a.jpg"], ["n/a.jpg"], ["'train/n/a.jpg'", "'test/n/a.jpg'"]),
        (["n/a"], ["n/a", "n/a.jpg"], None),
    ],
)
def test_a_name_that_may_mean_two_is_an_error_naming_both(wanted, have, named):
    if named is None:
        assert joined(wanted, have).rows.tolist() == [0]
        return
    with pytest.raises(DataError) as caught:
        joined(wanted, have)
    assert all(name in str(caught.value) for name in named)


def test_suffixes_are_only_those_of_images():
    assert joined(["n/a.v1.jpg"], ["n/a.v1", "n/a"]).rows.tolist() == [0]
    assert joined(["n/a.txt"], ["n/a"]).rows.tolist() == [-1]
    assert joined(["n/.jpg"], ["n/.jpg"]).rows.tolist() == [0]


def test_empty_tables():
    assert joined([], ["a"]).rows.tolist() == [] and joined(["a", "b"], []).rows.tolist() == [-1, -1]
    assert duplicates(table([])).tolist() == []


def test_duplicates_pair_each_later_row_with_the_first():
    keys = table(["a/1", "b", "a//1", "c", "b", "./b", "a/1.jpg"])
    assert duplicates(keys).tolist() == [[0, 2], [1, 4], [1, 5]]


@settings(deadline=None)
@given(st.lists(st.text("ab/\\.", max_size=6), max_size=8))
def test_normalising_equals_the_written_rule(names):
    def tidy(name):
        return re.sub(r"^(\.?/)+", "", re.sub(r"/(\.?/)+", "/", name.replace("\\", "/")))

    assert list(normalise(table(names))) == [tidy(name) for name in names]


def test_thousands_of_names_in_any_order():
    names = [f"train/n{i % 7}/{i:03d}.jpg" for i in range(5000)]
    shuffled = np.random.default_rng(0).permutation(5000)
    have = [names[row].removeprefix("train/").removesuffix(".jpg") for row in shuffled] + ["", "x"]
    assert joined(names, have).rows.tolist() == np.argsort(shuffled).tolist()
    assert duplicates(table(names + names[:2])).tolist() == [[0, 5000], [1, 5001]]


def oracle(wanted, have):
    """Apply the module's rule to each pair of names, one by one; "ambiguous" instead of an error."""

    def form(name, folders, suffix=True):
        parts = name.split("/")
        if len(parts) <= folders:
            return None
        rest = "/".join(parts[folders:])
        return re.sub(r"(?<=.)\.(jpg|png)$", "", rest) if suffix else rest

    def rows(i, k):
        return [[r for r, h in enumerate(have) if form(w, i) is not None and form(h, k) == form(w, i)] for w in wanted]

    depth = [name.count("/") for name in wanted], [name.count("/") for name in have]
    tails = sorted({h - w for w in depth[0] for h in depth[1]}, key=lambda d: (abs(d), d < 0))
    tails = [(0, d) if d >= 0 else (-d, 0) for d in tails]
    both = {(w - r, h - r) for w in depth[0] for h in depth[1] for r in range(1, min(w, h))}
    both = sorted(both, key=lambda pair: (sum(pair), pair))

    def best(candidates):
        counts = [sum(map(bool, rows(*pair))) for pair in candidates]
        return (max(counts), candidates[int(np.argmax(counts))]) if candidates else (0, None)

    count, folders = best(tails)
    if count == 0 and best(both)[0]:
        count, folders = best(both)
    found = rows(*folders)
    users = {r: [w for w, rs in enumerate(found) if r in rs] for rs in found for r in rs}
    result = []
    left = [form(w, folders[0], False) for w in wanted]
    right = [form(h, folders[1], False) for h in have]
    exact = [[r for r in rs if left[w] == right[r]] for w, rs in enumerate(found)]
    for w, rs in enumerate(found):
        doubtful = len(rs) > 1 or (rs and len(users[rs[0]]) > 1)
        if not doubtful:
            result.append(rs[0] if rs else -1)
        elif len(exact[w]) == 1 and sum(exact[w][0] in rows_ for rows_ in exact) == 1:
            result.append(exact[w][0])
        elif not exact[w] and len(rs) == 1 and any(exact[other] for other in users[rs[0]]):
            result.append(-1)
        else:
            return "ambiguous"
    return result


part = st.sampled_from(["a", "b", "c"])
name = st.builds(lambda folders, stem, suffix: "/".join([*folders, stem]) + suffix,
                 st.lists(part, max_size=3), part, st.sampled_from(["", "", ".jpg", ".png"]))  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(name, min_size=1, max_size=5, unique=True), st.lists(name, min_size=1, max_size=6, unique=True))
def test_matching_equals_the_rule_applied_pair_by_pair(wanted, have):
    expected = oracle(wanted, have)
    try:
        assert joined(wanted, have).rows.tolist() == expected
    except DataError:
        assert expected == "ambiguous"
