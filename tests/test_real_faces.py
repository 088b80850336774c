"""`make faces` and `make faces-search`: which commands their scripts run on which people; each is only written down."""

import os
import subprocess
import sys

import pytest

from jobs.methods import load_training
from tests.helpers.training import ROOT
from utils.config import load_config
from utils.config.evaluate import EvaluateConfig

RECORDER = """#!{python}
import pathlib, sys
if sys.argv[1] == "-c":  # asks for timm
    sys.exit("no timm" if pathlib.Path("without_timm").exists() else 0)
with open("log", "a") as log:
    print(*sys.argv[1:], sep="\\t", file=log)
for word in sys.argv:
    if word.startswith("base.save_path="):
        folder = pathlib.Path(word.partition("=")[2])
        folder.mkdir(parents=True, exist_ok=True)
        if sys.argv[1] == "train_main.py":
            (folder / "aikd-last.pth").touch()
if "configs/faces/landmarks.yaml" in sys.argv:
    pathlib.Path("runs/faces/detected").mkdir(parents=True, exist_ok=True)
for name in ("ser_fiq", "magnitude"):
    if f"configs/faces/label_{{name}}.yaml" in sys.argv:
        pathlib.Path(f"runs/faces/{{name}}/labels").mkdir(parents=True, exist_ok=True)
if "configs/faces/degrade.yaml" in sys.argv:
    folder = next((word[15:] for word in sys.argv if word.startswith("base.save_path=")))
    pathlib.Path(folder, "pairs.txt").write_text("reference/B/B_1.jpg probe/B/B_2.jpg 1\\n")
"""
TWO = ("train", "test")
SHARED = "error: TRAIN=45 and TEST=15 share a fold: the people tested would have been trained on\n"
PEOPLE = {"A": (0, 6), "B": (4, 5), "C": (5, 1), "D": (3, 2), "E": (2, 1), "Nobody": (None, 3)}
"""Fold and number of images of each."""


@pytest.fixture
def folder(tmp_path):
    """Return a workplace with the configurations, photographs (empty files) and a Python that only writes down."""
    faces = tmp_path / "given"
    for person, (_, count) in PEOPLE.items():
        (faces / "images" / person).mkdir(parents=True)
        for number in range(1, count + 1):
            (faces / "images" / person / f"{person}_{number}.jpg").touch()
    for name in ("landmarks.csv", "mobilefacenet_y1.pth", "edgeface_xxs.pth", "yunet.onnx"):
        (faces / name).touch()
    folds = [f"{person},{fold}\r\n" for person, (fold, _) in PEOPLE.items() if fold is not None]
    (faces / "folds.csv").write_text("identity,fold\r\n" + "".join(folds), newline="")
    (tmp_path / "python").write_text(RECORDER.format(python=sys.executable))
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def run_script(folder, script="real_faces.sh", **changes):
    """Run the script in `folder`; return its exit code, what it said of errors and the words of each command."""
    (folder / "log").write_text("")
    given = {"PY": "./python", "FACES": "given", "YUNET": "given/yunet.onnx", "SEEDS": "1 2", **changes}
    done = subprocess.run(
        [ROOT / "examples" / script], cwd=folder, env={**os.environ, **given}, capture_output=True, text=True
    )
    return done.returncode, done.stderr, [line.split("\t") for line in (folder / "log").read_text().splitlines()]


def overrides(words):
    """Return the key=value of a command."""
    return [word for word in words if "=" in word]


def test_people_are_those_of_their_folds_with_at_most_four_images(folder):
    assert run_script(folder)[0] == 0
    images = {
        part: sorted(path.name for path in (folder / "runs/faces/people" / part).rglob("*.jpg"))
        for part in ("train", "selection", "test")
    }
    assert images == {
        "train": ["A_1.jpg", "A_2.jpg", "A_3.jpg", "A_4.jpg", "E_1.jpg"],
        "selection": ["D_1.jpg", "D_2.jpg"],
        "test": ["B_1.jpg", "B_2.jpg", "B_3.jpg", "B_4.jpg"],  # C has one photograph, so no mated pair
    }


def test_folds_rotate_but_share_nobody(folder):
    assert run_script(folder, TRAIN="45", TEST="0")[0] == 0
    images = {part: {path.name[0] for path in (folder / "runs/faces/people" / part).rglob("*.jpg")} for part in TWO}
    assert images == {"train": {"B", "C"}, "test": {"A"}}
    code, errors, _ = run_script(folder, TRAIN="45", TEST="15")
    assert (code, errors) == (2, SHARED)


def test_other_people_than_those_already_there_are_refused(folder):
    assert run_script(folder, TRAIN="45", TEST="0")[0] == 0
    error = "error: runs/faces: its people {} are not those of folds {} in given; move runs/faces away\n"
    for script in ("real_faces.sh", "faces_search.sh"):
        assert run_script(folder, script) == (2, error.format("to train on", "012"), [])
    assert run_script(folder, TRAIN="45", TEST="12") == (2, error.format("to test on", "12"), [])
    asked = {"TRAIN": "45", "TEST": "0", "LIMIT": "1"}
    assert run_script(folder, **asked) == (2, error.format("to train on", "45, LIMIT=1,"), [])
    assert run_script(folder, TRAIN="45", TEST="0")[0] == 0
    (folder / "given/images/B/B_6.jpg").touch()  # behind the first four
    assert run_script(folder, TRAIN="45", TEST="0")[0] == 0
    (folder / "given/images/B/B_1.jpg").unlink()
    assert run_script(folder, TRAIN="45", TEST="0") == (2, error.format("to train on", "45"), [])


def test_every_seed_is_trained_whole_before_the_next_and_all_are_evaluated(folder):
    code, errors, commands = run_script(folder, SOURCES="ser_fiq lightqnet")
    assert code == 0, errors
    every = [load_training(ROOT / words[2], overrides(words)) for words in commands if words[0] == "train_main.py"]
    released = [one for one in every if one.base.save_path.endswith("released-1")]
    assert [(one.base.epochs, one.optimizer.group_2.limit, one.ema.every) for one in released] == 2 * [
        (1, 100, "validation")
    ]
    trained = [one for one in every if one not in released]
    assert [one.base.save_path.removeprefix("runs/faces/") for one in trained] == [
        f"{source}/{kind}-{seed}"
        for source in ("ser_fiq", "lightqnet")
        for seed in (1, 2)
        for kind in ("aikd", "plain", "augmented")
    ]
    assert [one.base.seed for one in trained[::3]] == [1, 2, 1, 2]
    assert [(one.dataset.misalign, one.loss.weights) for one in trained] == 4 * [
        (True, [1, 1]),
        (False, [0, 1]),
        (True, [0, 1]),
    ]
    seen = {(one.dataset.image_location, one.dataset.quality_location) for one in trained}
    assert seen == {
        ("runs/faces/train", "runs/faces/ser_fiq/labels/labels.pkl"),
        ("runs/faces/people/train", "runs/faces/photographs/labels_lightqnet.csv"),
    }
    evaluation = load_config(EvaluateConfig, ROOT / commands[-1][2], overrides(commands[-1]))
    weights = {one.weights for one in evaluation.scores.values() if one.weights}
    assert weights == {f"{one.base.save_path}/aikd-last.pth" for one in every}


def test_the_recommended_recipe_is_trained_beside_the_first_one(folder):
    run_script(folder)
    code, errors, commands = run_script(folder, RECIPE="recommended", SEEDS="1")
    assert code == 0, errors
    assert [words[0] for words in commands] == 3 * ["train_main.py"] + ["evaluate.py"]  # the labels are there
    recommended = load_training(ROOT / "configs/aikd_recommended.yaml")
    for words in commands[:3]:
        one = load_training(ROOT / words[2], overrides(words))
        assert one.optimizer == recommended.optimizer
        weights = recommended.loss.weights if one.base.save_path.endswith("aikd-1") else [0, 1]
        assert one.loss == recommended.loss.model_copy(update={"weights": weights})
        assert (one.scheduler, one.base.epochs) == (recommended.scheduler, recommended.base.epochs)
        for key in ("label_scaling", "perturbation"):
            assert getattr(one.dataset, key) == getattr(recommended.dataset, key)
    evaluation = load_config(EvaluateConfig, ROOT / commands[-1][2], overrides(commands[-1]))
    assert evaluation.base.save_path == "runs/faces/recommended/evaluation"
    kinds = ("aikd", "augmented", "plain")
    students = {f"runs/faces/recommended/ser_fiq/{kind}-1/aikd-last.pth" for kind in kinds}
    assert {one.weights for one in evaluation.scores.values() if one.weights} == students
    assert evaluation.scores["SER-FIQ on EdgeFace-XXS"].source == "configs/faces/label_ser_fiq_edgeface.yaml"


def test_a_second_run_only_evaluates(folder):
    run_script(folder)
    code, _, commands = run_script(folder)
    assert code == 0 and [words[0] for words in commands] == ["evaluate.py"]


def test_a_folder_that_lacks_something_stops_before_anything_is_made(folder):
    (folder / "given/folds.csv").unlink()
    code, errors, commands = run_script(folder)
    assert code == 2 and commands == [] and not (folder / "runs").exists()
    assert errors.startswith("error: given/folds.csv: not there; FACES and YUNET name")


def test_a_missing_package_stops_before_anything_is_made(folder):
    (folder / "without_timm").touch()
    code, errors, commands = run_script(folder)
    assert code == 2 and commands == [] and not (folder / "runs").exists()
    assert errors == "error: edgeface_xxs needs the package timm: ./python -m pip install timm\n"


CHANGED = {
    **{name: ["dataset"] for name in ("fused", "views", "similarity", "box", "mixed", "range", "minmax")},
    "aikd": [],
    "plain": ["dataset", "loss"],
    "copies": ["dataset", "scheduler"],
    "long": ["scheduler"],
    "edge_mixed_30": ["scheduler"],
    "head": ["optimizer"],
    "adamw": ["optimizer"],
    "other_teacher": ["model", "optimizer"],
    "other_student": ["model"],
}
"""Sections of the configuration that each change touches; the others only the loss."""
BUILT = {
    "chosen": ("long", "ranking"),
    "chosen_none": ("chosen", "none"),
    "together": ("chosen", "minmax", "strong"),
    "together_none": ("together", "none"),
    "edge": ("chosen", "other_student", "adamw"),
    "edge_mixed": ("edge", "mixed"),
    "edge_mixed_minmax": ("edge_mixed", "minmax"),
    "edge_mixed_both": ("edge_mixed", "both"),
    "edge_mixed_30": ("edge_mixed",),
    "y1_adamw": ("chosen", "mixed", "adamw"),
    "edge_best_none": ("edge_mixed_minmax", "none"),
}


def built(trial):
    """Return the single changes that a trial puts together."""
    return [one for part in BUILT[trial] for one in built(part)] if trial in BUILT else [trial]


def test_every_trial_of_the_search_changes_what_it_says(folder):
    code, errors, commands = run_script(folder, "faces_search.sh")
    assert code == 0, errors
    trained = {words[7].rpartition("/")[2]: words for words in commands if words[0] == "train_main.py"}
    assert len(trained) == 29, sorted(trained)
    recipe = load_training(ROOT / "configs/faces/aikd.yaml", trained["aikd"][7:]).model_dump()
    for name, words in trained.items():
        found = load_training(ROOT / words[2], overrides(words)).model_dump()
        changed = {key for key, part in found.items() if part != recipe[key]} - {"base"}
        assert found["base"]["epochs"] == {"copies": 1, "edge_mixed_30": 30}.get(
            name, 10 if "long" in built(name) else 2
        )
        assert changed == {section for part in built(name) for section in CHANGED.get(part, ["loss"])}, name
    evaluation = load_config(EvaluateConfig, ROOT / commands[-1][2], overrides(commands[-1]))
    assert set(evaluation.scores) == {"SER-FIQ", *trained}
    fusing = next(words for words in commands if "base.task=fuse" in words)
    files = [f"runs/faces/{name}/labels.csv" for name in ("ser_fiq/labels", "search/labels_edgeface")]
    assert fusing[-1] == f"fuse.files=[{', '.join(files)}]"


def test_some_trials_of_the_search_can_be_named(folder):
    code, errors, commands = run_script(folder, "faces_search.sh", ONLY="mixed none")
    assert code == 0, errors
    assert [words[7] for words in commands if words[0] == "train_main.py"] == [
        f"base.save_path=runs/faces/search/{name}" for name in ("mixed", "none")
    ]
    code, errors, commands = run_script(folder, "faces_search.sh", ONLY="magic")
    assert code == 2 and errors.startswith("error: no trial magic; there are: aikd plain long")
