"""Several looks at each face, in labels and at test time; and crops about a detector's box."""

import hashlib

import cv2
import numpy as np
import pytest
import torch
import yaml

import label
from data.alignment import TEMPLATE_112, align, box_landmarks, estimate_similarity
from data.tables.boxes import read_boxes
from data.tables.scores import read_scores
from data.tables.text_tables import write_csv
from evaluation.pairs.readers import read_list
from evaluation.protocol.conditions import Protocol
from evaluation.protocol.face_set import open_faces, with_boxes
from evaluation.protocol.methods import describe_method
from evaluation.protocol.numbers import Models
from evaluation.protocol.views import Averaging, View, misaligned_views
from evaluation.report.output import Output
from model.compact import CompactNet
from tests.helpers.evaluation import Recorder, Thumbnails, open_population, population_config, write_population
from tests.helpers.tiny_networks import randomised
from tests.helpers.training import TINY
from utils.config.evaluate import EvaluateConfig, ScoresConfig
from utils.config.evaluating.misalignment import MisalignmentConfig
from utils.config.sections import ViewsConfig
from utils.errors import ConfigError, DataError


def decoded(folder, name):
    return cv2.imread(str(folder / "images" / name))[:, :, ::-1].copy()


def moved(landmarks, name, *draws):
    """Move landmarks by U[-p, p] template pixels for each (p, seed, ...), written again from the documentation."""
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    points = np.asarray(landmarks, np.float64)
    for p, seed, *view in draws:
        offset = np.random.default_rng([seed, key, *view]).uniform(-p, p, size=(5, 2))
        points = points + offset @ np.linalg.inv(estimate_similarity(points, TEMPLATE_112)[:, :2]).T
    return points


def label_folder(folder, *more):
    points = write_population(folder, identities=2, images=3)
    torch.save(randomised(CompactNet(**TINY), seed=1).state_dict(), folder / "net.pth")
    features = {"module": "model.compact.CompactNet", "weights": str(folder / "net.pth"), "params": TINY}
    (folder / "model_config.yaml").write_text(yaml.safe_dump({"features": features}))
    given = {"loc": str(folder / "images"), "input": "landmarks", "landmarks": str(folder / "landmarks.csv")}
    config = {
        "base": {"save_path": str(folder / "out"), "device": "cpu", "verbose": 0, "seed": 3},
        "dataset": given,
        "dataloader": {"params": {"batch_size": 4}},
        "model": {"config": "model_config.yaml"},
        "source": {"name": "magnitude"},
    }
    (folder / "label_config.yaml").write_text(yaml.safe_dump(config))
    return points, ["-c", str(folder / "label_config.yaml"), *more]


def test_labels_are_the_mean_over_the_views(tmp_path):
    points, command = label_folder(tmp_path, "source.views=3", "source.perturbation.radius_px=5")
    assert label.main(command) == 0
    found = read_scores(tmp_path / "out/labels.csv")
    network = randomised(CompactNet(**TINY), seed=1).eval()

    def length(image):
        crop = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            return float(network(crop).norm())

    for name, value in zip(found.names, found.values, strict=True):
        crops = [align(decoded(tmp_path, name), moved(points[name], name, (5.0, 3, view))) for view in (1, 2, 3)]
        assert value == pytest.approx(np.mean([length(crop) for crop in crops]), rel=2e-3)
        assert value != pytest.approx(length(align(decoded(tmp_path, name), points[name])), rel=1e-5)


def test_an_evaluation_averages_as_labels_are_averaged(tmp_path):
    _, command = label_folder(tmp_path, "source.views=2")
    assert label.main(command) == 0
    method = describe_method(ScoresConfig(source=str(tmp_path / "label_config.yaml"), views=2), "", "fp32")
    assert method.averaging == Averaging(2, ViewsConfig(), 3)
    once = describe_method(ScoresConfig(source=str(tmp_path / "label_config.yaml")), "", "fp32")
    assert once.averaging is None
    with pytest.raises(ConfigError, match="sdd_fiqa compares images with each other"):
        label.main([*command, "source.name=sdd_fiqa", f"base.save_path={tmp_path}/other"])
    with pytest.raises(ValueError, match="score files hold one score per image"):
        ScoresConfig(files={"toy": "scores.csv"}, views=8)


def config(folder, **misalignment):
    return EvaluateConfig(
        base={"save_path": str(folder / "out"), "device": "cpu", "seed": 1, "verbose": 0},
        evaluation={"fmr": 0.1, "bootstrap": 20},
        datasets={"toy": population_config(folder).model_dump()},
        recognition={"net": {"weights": "w", "module": "m"}},
        scores={"q": {"weights": "w", "config": "c"}, "q@2": {"weights": "w", "config": "c", "views": 2}},
        misalignment={"apply": ["quality"], **misalignment},
    )


def test_scores_are_the_mean_over_looks_at_aligned_and_at_misaligned_crops(tmp_path):
    points = write_population(tmp_path)
    several = Recorder("q")
    several.averaging = Averaging(2, ViewsConfig(radius_px=3.0), 9)
    methods = {"q": Recorder("q"), "q@2": several}
    cfg = config(tmp_path, p=[6], seeds=[5])
    protocol = Protocol(cfg, Models(methods, {"net": Thumbnails("n", noise=0.3)}), tmp_path / "out")
    faces = open_population(tmp_path)
    found = protocol.evaluate(faces)
    aligned = dict(zip(faces.pairs.names, found.quality["q@2"], strict=True))
    seen = {}
    for name, landmarks in points.items():
        image = decoded(tmp_path, name)
        want = [align(image, moved(landmarks, name, (3.0, 9, look))).mean() for look in (1, 2)]
        assert aligned[name] == pytest.approx(np.mean(want), abs=0.02)
        seen[name] = align(image, moved(landmarks, name, (6.0, 5), (3.0, 9, 2)))
    last = np.mean([np.abs(seen[name].astype(int) - several.seen[name]).mean() for name in seen])
    assert last < 0.05, "the last crops it saw are the second look at the misaligned ones"
    assert [panel.results.keys() for panel in found.panels] == [{"q", "q@2"}] * 2


def write_box_file(folder, points, title="path,box_x,box_y,box_w,box_h"):
    boxes = {name: (10 + row, 5 + row, 40, 56) for row, name in enumerate(points)}
    rows = "".join(f"{name},{','.join(map(str, box))}\n" for name, box in boxes.items())
    (folder / "boxes.csv").write_text(f"{title}\n{rows}", encoding="utf-8")
    return boxes


@pytest.mark.parametrize("title", ["path,box_x,box_y,box_w,box_h", "NAME_ID,X,Y,W,H"])
def test_boxes_are_read_and_their_squares_are_cut_upright(tmp_path, title):
    boxes = write_box_file(tmp_path, ["a.jpg", "b.jpg"], title.replace("NAME_ID", "path"))
    table = read_boxes(tmp_path / "boxes.csv")
    assert dict(zip(table.names, map(tuple, table.boxes.tolist()), strict=True)) == boxes
    ramp = np.zeros((90, 100, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(100) * 2, np.arange(90)[:, None] * 2
    side, corner = 1.25 * 56, np.array([10 + (40 - 70) / 2, 5 + (56 - 70) / 2])  # about the middle of the box
    crop = align(ramp, box_landmarks(table.boxes, 1.25)[0])
    at = (np.arange(112) + 0.5) * side / 112 - 0.5
    inside = slice(20, 100)
    assert np.abs(crop[60, inside, 0] - 2 * (at + corner[0])[inside]).max() <= 1
    assert np.abs(crop[inside, 60, 1] - 2 * (at + corner[1])[inside]).max() <= 1


@pytest.mark.parametrize(
    "titles",
    [
        "path,x1,y1,x2,y2",
        '"image","xmin","ymin","xmax","ymax"',
        "name;left;top;right;bottom",
        "sep=;\nname;x1;y1;x2;y2",
    ],
)
def test_corners_of_boxes_are_known_by_their_titles(tmp_path, titles):
    row = "a.jpg,10,5,50,61".replace(",", ";" if ";" in titles else ",")
    (tmp_path / "boxes.csv").write_text(f"{titles}\n{row}\n", encoding="utf-8")
    assert read_boxes(tmp_path / "boxes.csv").boxes.tolist() == [[10, 5, 40, 56]]


def test_boxes_that_are_not_about_the_faces_stop_an_evaluation(tmp_path, caplog):
    """Of corners without titles the second would be taken for the size."""
    points, section = write_population(tmp_path), population_config(tmp_path)
    opened, path = open_faces("toy", section, 1), tmp_path / "boxes.csv"
    right = np.array([[*face.min(axis=0) - 12, *np.ptp(face, axis=0) + 24] for face in points.values()])
    corners, centres = right.copy(), right.copy()
    corners[:, 2:] += right[:, :2]
    centres[:, :2] += right[:, 2:] / 2
    for boxes in (right, corners, centres):
        write_csv(
            path,
            ("path", "x", "y", "w", "h"),
            ([name, *map(str, box)] for name, box in zip(points, boxes, strict=True)),
        )
        if boxes is right:
            assert with_boxes(opened, section, str(path), 1.0).box is not None and not caplog.text
            continue
        with pytest.raises(
            DataError, match=r"boxes\.csv: \d+ of 24 boxes do not lie about the landmarks of their faces"
        ):
            with_boxes(opened, section, str(path), 1.0)


def test_a_box_is_a_condition_of_its_own(tmp_path):
    points = write_population(tmp_path)
    boxes = write_box_file(tmp_path, points)
    section = population_config(tmp_path)
    faces = with_boxes(open_faces("toy", section, 1), section, str(tmp_path / "boxes.csv"), 1.0)
    cfg = config(tmp_path, p=[], box=1.0)
    assert misaligned_views(cfg.misalignment, "toy") == [[View(None, box=1.0)]]
    quality = Recorder("q")
    found = Protocol(cfg, Models({"q": quality}, {"net": Thumbnails("n", noise=0.3)}), tmp_path / "out").evaluate(faces)
    name = next(iter(points))
    x, y, width, height = boxes[name]
    square = decoded(tmp_path, name)[y : y + height, x + (width - height) // 2 : x + (width + height) // 2]
    want = cv2.resize(square, (112, 112), interpolation=cv2.INTER_LINEAR)
    assert np.abs(quality.seen[name][4:-4, 4:-4].astype(int) - want[4:-4, 4:-4]).max() <= 2
    assert [panel.condition.alignment for panel in found.panels] == ["aligned", "box_quality"]
    output = Output(tmp_path / "out", cfg)
    output.add(found)
    report = output.finish()
    assert "box (quality methods only)" in report and "| box |" in report
    assert "box_quality" in (tmp_path / "out/pauc.csv").read_text()


def test_a_box_needs_photographs_and_boxes(tmp_path):
    write_population(tmp_path)
    copies = population_config(tmp_path, landmarks=None)
    with pytest.raises(DataError, match=r"misalignment\.box: toy has crops that are aligned already"):
        with_boxes(open_faces("toy", copies, 1), copies, str(tmp_path / "x.csv"), 1.0)
    section = population_config(tmp_path)
    with pytest.raises(DataError, match=r"landmarks\.csv.*a face box \(x,y,w,h\)"):
        with_boxes(open_faces("toy", section, 1), section, None, 1.0)
    assert MisalignmentConfig().box is None


def test_a_person_of_a_list_of_pairs_may_lie_in_several_folders(tmp_path):
    lines = "reference/a/1.png probe/a/2.png 1\nreference/a/2.png probe/a/1.png 1\nreference/b/1.png probe/a/1.png 0\n"
    (tmp_path / "pairs.txt").write_text(lines)
    pairs = read_list(tmp_path / "pairs.txt")
    assert len(set(pairs.mated_identities())) == 1 and len(set(pairs.image_identities())) == 2
    (tmp_path / "pairs.txt").write_text(lines.replace("probe/a", "probe/c"))  # folders that are no people
    assert len(set(read_list(tmp_path / "pairs.txt").mated_identities())) == 2
