"""The crops of the misalignment protocol: every model sees the same perturbed crops, one draw per image, p and seed."""

import hashlib

import cv2
import numpy as np
import pytest

from data.alignment import TEMPLATE_112, align, estimate_similarity, outside_share
from data.tables.landmarks import write_landmarks_csv
from evaluation.protocol.embeddings import read_embeddings
from evaluation.protocol.face_set import open_faces, with_images, with_second_landmarks
from evaluation.protocol.views import ALIGNED, View, misaligned_views
from evaluation.report.output import Output
from tests.helpers.evaluation import (
    SIZE,
    Recorder,
    Thumbnails,
    crop_pass,
    open_population,
    population_config,
    write_population,
)
from tests.helpers.protocol import config, protocol
from utils.config.evaluate import PairsConfig
from utils.config.evaluating.misalignment import MisalignmentConfig
from utils.errors import DataError
from utils.files import make_folder


def decoded(folder, name):
    return cv2.imread(str(folder / "images" / name))[:, :, ::-1].copy()


def expected_offset(seed, name, p):
    """Draw U[-p, p] from (seed, name), written again from the protocol's text."""
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    return np.random.default_rng([seed, key]).uniform(-p, p, size=(5, 2))


def test_views():
    cfg = MisalignmentConfig(p=[4, 0, 2], seeds=[5, 6], second_landmarks={"toy": "x.csv"})
    assert misaligned_views(cfg, "toy") == [[View(2, 5), View(2, 6)], [View(4, 5), View(4, 6)], [View(None)]]
    assert misaligned_views(cfg, "other") == [[View(2, 5), View(2, 6)], [View(4, 5), View(4, 6)]]
    assert misaligned_views(None, "toy") == []


def test_crops_are_the_aligned_and_the_perturbed_ones(tmp_path):
    points = write_population(tmp_path)
    crops = crop_pass(open_population(tmp_path), tmp_path / "cache")
    aligned, moved = Recorder("a"), Recorder("m")
    crops(ALIGNED, {"q": aligned})
    crops(View(4.0, seed=7), {"q": moved})
    assert aligned.seen.keys() == moved.seen.keys() == points.keys()
    for name, landmarks in points.items():
        image = decoded(tmp_path, name)
        np.testing.assert_array_equal(aligned.seen[name], align(image, landmarks))
        to_template = estimate_similarity(landmarks, TEMPLATE_112)
        in_template = landmarks @ to_template[:, :2].T + to_template[:, 2] + expected_offset(7, name, 4.0)
        back = (in_template - to_template[:, 2]) @ np.linalg.inv(to_template[:, :2]).T
        difference = moved.seen[name].astype(int) - align(image, back)
        assert np.abs(difference).max() <= 1
        assert np.abs(moved.seen[name].astype(int) - aligned.seen[name]).mean() > 1


def test_draws_do_not_depend_on_models_batches_or_other_images(tmp_path):
    write_population(tmp_path)
    faces = open_population(tmp_path)
    one, two = Recorder("1"), Recorder("2")
    crop_pass(faces, tmp_path / "c1", batch_size=3)(View(6.0, 1), {"a": one, "b": two})
    alone = Recorder("1")
    crop_pass(faces, tmp_path / "c2", batch_size=64)(View(6.0, 1), {"a": alone})
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("id3/2.png id3/1.png 1\nid3/2.png id0/0.png 0\n")
    few = open_population(tmp_path, format="list", pairs=str(pairs))
    sparse = Recorder("3")
    crop_pass(few, tmp_path / "c3")(View(6.0, 1), {"a": sparse})
    assert len(sparse.seen) == 3 and one.seen.keys() == two.seen.keys() == alone.seen.keys() > sparse.seen.keys()
    for other in (two, alone, sparse):
        for name, crop in other.seen.items():
            np.testing.assert_array_equal(crop, one.seen[name])
    reseeded = Recorder("4")
    crop_pass(few, tmp_path / "c3")(View(6.0, 2), {"a": reseeded})
    assert all((reseeded.seen[name] != sparse.seen[name]).any() for name in sparse.seen)


def test_what_was_measured_is_read_from_the_cache_until_something_changes(tmp_path):
    points = write_population(tmp_path)
    faces = open_population(tmp_path)
    first = crop_pass(faces, tmp_path / "cache")(ALIGNED, {"q": Recorder()})["q"]
    again = Recorder()
    second = crop_pass(faces, tmp_path / "cache")(ALIGNED, {"q": again})["q"]
    assert again.calls == 0
    np.testing.assert_array_equal(first.values, second.values)
    (file,) = (tmp_path / "cache").glob("toy.aligned.q-*/scores.npz")
    file.write_bytes(file.read_bytes()[:100])
    changes = {
        "a damaged file": lambda: None,
        "another model": lambda: None,
        "another image": lambda: (tmp_path / "images/id0/0.png").write_bytes(
            (tmp_path / "images/id1/0.png").read_bytes()
        ),
        "other landmarks": lambda: write_landmarks_csv(
            tmp_path / "landmarks.csv", list(points), np.stack(list(points.values())) + 1
        ),
    }
    for what, change in changes.items():
        change()
        model = Recorder("new" if what == "another model" else "recorder")
        crop_pass(open_population(tmp_path), tmp_path / "cache")(ALIGNED, {"q": model})
        assert model.calls > 0, what


def test_cached_embeddings_can_be_named_as_embeddings(tmp_path):
    write_population(tmp_path)
    faces = open_population(tmp_path)
    found = crop_pass(faces, tmp_path / "cache")(ALIGNED, {"net": Thumbnails()})["net"]
    (file,) = (tmp_path / "cache").glob("toy.aligned.net-*/embeddings.npz")
    np.testing.assert_array_equal(faces.column(*read_embeddings(file)), found.values)


def test_images_without_a_crop_have_a_reason(tmp_path):
    points = write_population(tmp_path)
    (tmp_path / "images/id0/1.png").write_bytes(b"no image")
    del points["id2/3.png"]
    write_landmarks_csv(tmp_path / "landmarks.csv", list(points), np.stack(list(points.values())))
    faces = open_population(tmp_path)
    found = crop_pass(faces, tmp_path / "cache")(ALIGNED, {"q": Recorder()})["q"]
    names = list(faces.pairs.names)
    missing = [names[row] for row in np.flatnonzero(np.isnan(found.values))]
    assert missing == ["id0/1.png", "id2/3.png"]
    assert found.reasons.keys() == {names.index(name) for name in missing}
    assert found.reasons[names.index("id2/3.png")] == "no landmarks"
    cached = crop_pass(faces, tmp_path / "cache")(ALIGNED, {"q": Recorder()})["q"]
    assert cached.reasons == found.reasons


def test_second_landmarks_cut_other_crops(tmp_path):
    points = write_population(tmp_path)
    other = {name: value + np.array([3, -2]) for name, value in points.items()}
    write_landmarks_csv(tmp_path / "other.csv", list(other), np.stack(list(other.values())))
    faces = with_second_landmarks(open_population(tmp_path), population_config(tmp_path), str(tmp_path / "other.csv"))
    model = Recorder()
    crop_pass(faces, tmp_path / "cache")(View(None), {"q": model})
    for name, landmarks in other.items():
        np.testing.assert_array_equal(model.seen[name], align(decoded(tmp_path, name), landmarks.astype(np.float32)))


@pytest.mark.parametrize("border", ["black", "replicate", "reflect"])
def test_how_far_crops_reach_beyond_their_images_is_tabulated_and_said(tmp_path, caplog, border):
    """Photographs with landmarks: aligned crops end outside theirs too; the shares come from geometry."""
    points = write_population(tmp_path)
    cfg = config(tmp_path, misalignment={"p": [4, 9], "seeds": [1, 2], "apply": ["quality"], "border": border})
    quality = Recorder("q")
    faces = open_population(tmp_path)
    with caplog.at_level("INFO", logger="evaluate"):
        found = protocol(cfg, tmp_path, {"q": quality}, {"net": Thumbnails("n")}).evaluate(faces)
    assert [(one.condition.p, one.condition.seed) for one in found.outside] == [
        (0, None), (4, 1), (4, 2), (9, 1), (9, 2)
    ]  # fmt: skip

    def shares(p, seed):
        for name, landmarks in points.items():
            to_template = estimate_similarity(landmarks, TEMPLATE_112)[:, :2]
            moved = landmarks + expected_offset(seed, name, p) @ np.linalg.inv(to_template).T if p else landmarks
            yield outside_share(estimate_similarity(moved, TEMPLATE_112), SIZE)

    for one in found.outside:
        want = list(shares(one.condition.p, one.condition.seed))
        assert (one.mean, one.most) == pytest.approx((np.mean(want), max(want)), abs=1e-6)
        assert one.border == ("black" if one.condition.p == 0 else border)
    share = np.mean([np.mean(list(shares(9, seed))) for seed in (1, 2)])
    (remark,) = found.remarks
    assert f"at p = 9 {100 * share:.1f} % of a crop's pixels lie outside its image" in remark
    assert remark in caplog.messages and "aligned copies" not in remark
    assert ("black, which a method can read as misaligned" in remark) == (border == "black")
    output = Output(make_folder(tmp_path / "out", "out"), cfg)
    output.add(found)
    table = output.finish().split("### How far crops reach beyond their images")[1].split("###")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| toy")]
    assert [(row[1], row[4]) for row in rows] == [("aligned", "black"), ("p = 4", border), ("p = 9", border)]
    assert rows[2][2] == f"{100 * share:.1f}" and remark in (tmp_path / "out/pauc.md").read_text()
    again = Recorder("q")
    protocol(cfg, tmp_path, {"q": again}, {"net": Thumbnails("n")}).evaluate(faces)
    assert again.calls == 0, "shares are kept beside the scores"
    other = config(tmp_path, misalignment={"p": [9], "seeds": [1], "apply": ["quality"], "border": "reflect"})
    protocol(other, tmp_path, {"q": again}, {"net": Thumbnails("n")}).evaluate(faces)
    assert (again.calls == 0) == (border == "reflect"), "another border, other crops"


def test_crops_of_aligned_copies_are_said_to_be_theirs(tmp_path):
    write_population(tmp_path)
    more = {"landmarks": None}
    datasets = {"toy": population_config(tmp_path, **more).model_dump()}
    cfg = config(tmp_path, datasets=datasets, misalignment={"p": [6], "seeds": [1, 2, 3], "apply": ["quality"]})
    models = {"q": Recorder("q")}, {"net": Thumbnails("n")}
    found = protocol(cfg, tmp_path, *models).evaluate(open_population(tmp_path, **more))
    (remark,) = found.remarks
    assert remark.startswith("toy: the images are aligned copies, so at p = 6 ")
    assert float(remark.split("at p = 6 ")[1].split(" %")[0]) == pytest.approx(8.6, abs=1.5)
    assert (found.outside[0].mean, found.outside[0].most) == (0, 0)


def test_names_match_under_another_root_and_suffix(tmp_path):
    write_population(tmp_path)
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("train/id0/0.jpg train/id0/1.jpg 1\ntrain/id0/0.jpg train/id1/2.jpg 0\n")
    model = Recorder()
    found = crop_pass(open_population(tmp_path, format="list", pairs=str(pairs)), tmp_path / "c")(ALIGNED, {"q": model})
    assert sorted(model.seen) == ["id0/0.png", "id0/1.png", "id1/2.png"]
    assert not np.isnan(found["q"].values).any()
    pairs.write_text("x/y.jpg x/z.jpg 1\n")
    with pytest.raises(DataError, match=r"none of the 2 images .* first 'x/y\.jpg'"):
        open_population(tmp_path, format="list", pairs=str(pairs))


def test_images_of_a_bin_are_used_where_they_are(tmp_path):
    import pickle

    images = [cv2.imencode(".png", np.full((112, 112, 3), value, np.uint8))[1].tobytes() for value in (10, 20, 30, 40)]
    (tmp_path / "toy.bin").write_bytes(pickle.dumps((images, [True, False])))
    cfg = PairsConfig(format="bin", pairs=str(tmp_path / "toy.bin"))
    faces = with_images(open_faces("toy", cfg, 0), cfg)
    model = Recorder()
    values = crop_pass(faces, tmp_path / "cache")(ALIGNED, {"q": model})["q"].values
    np.testing.assert_array_equal(values, [10, 20, 30, 40])
    assert {path.name for path in tmp_path.iterdir()} == {"toy.bin", "cache"}
    again = Recorder()
    known = crop_pass(with_images(open_faces("toy", cfg, 0), cfg), tmp_path / "cache")(ALIGNED, {"q": again})
    np.testing.assert_array_equal(known["q"].values, [10, 20, 30, 40])
    assert (model.calls, again.calls) == (1, 0)
