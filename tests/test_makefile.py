"""What `make demo` and `make sources` would run: every configuration is there, and every file comes from a step."""

import shlex
import shutil
import subprocess

import pytest

from tests.helpers.training import ROOT
from utils.config import load_config
from utils.config.evaluate import EvaluateConfig
from utils.config.inference import InferenceConfig
from utils.config.label import LabelConfig
from utils.config.prepare import PrepareConfig
from utils.config.sections import ModelConfig
from utils.config.train import TrainConfig

SCHEMAS = {
    "prepare.py": PrepareConfig,
    "train_main.py": TrainConfig,
    "label.py": LabelConfig,
    "evaluate.py": EvaluateConfig,
    "inference.py": InferenceConfig,
}
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def steps(target):
    """Return (script, configuration with overrides) of each command, in the order make runs them."""
    dry = subprocess.run(["make", "-nB", target], cwd=ROOT, capture_output=True, text=True, check=True)
    found = []
    for line in dry.stdout.replace("\\\n", " ").splitlines():
        words = shlex.split(line.partition(">")[0])
        if len(words) > 3 and words[1] in SCHEMAS:
            assert words[2] == "-c"
            found.append((words[1], load_config(SCHEMAS[words[1]], ROOT / words[3], words[4:])))
    return found


def saved(found):
    """Return the weights and labels that the steps write."""
    weights = {f"{c.base.save_path}/{c.base.method}-last.pth" for s, c in found if s == "train_main.py"}
    return weights | {f"{c.base.save_path}/labels.pkl" for s, c in found if s == "label.py"}


@pytest.fixture(scope="module", params=["demo", "sources"])
def found(request):
    return steps(request.param)


def test_every_file_a_step_reads_was_written_by_an_earlier_one(found):
    for place, (script, cfg) in enumerate(found):
        earlier, read = saved(found[:place]), set()
        if script in ("train_main.py", "label.py"):
            read.add(load_config(ModelConfig, ROOT / cfg.model.config).features.weights)
        if script in ("label.py", "inference.py"):
            read.add(cfg.model.weight)
        if script == "train_main.py":
            read.add(cfg.dataset.quality_location)
        if script == "evaluate.py":
            read |= {one.weights for one in [*cfg.scores.values(), *cfg.recognition.values()]}
            labels = [load_config(LabelConfig, ROOT / one.source) for one in cfg.scores.values() if one.source]
            read |= {label.model.weight for label in labels}
        assert read - {None} <= earlier, f"{script}, step {place}"


def test_no_two_steps_write_to_one_folder(found):
    folders = [cfg.base.save_path for _, cfg in found]
    assert len(set(folders)) == len(folders)


def test_each_source_is_evaluated_beside_both_of_its_students():
    found = steps("sources")
    trained = [cfg for script, cfg in found if script == "train_main.py" and cfg.base.method == "aikd"]
    scores = found[-1][1].scores
    methods = [name for name, one in scores.items() if one.source]
    assert len(methods) >= 3
    for name in methods:
        labels = f"{load_config(LabelConfig, ROOT / scores[name].source).base.save_path}/labels.pkl"
        students = {c.base.save_path: c for c in trained if c.dataset.quality_location == labels}
        plain = students[scores[f"plain({name})"].weights.removesuffix("/aikd-last.pth")]
        distilled = students[scores[f"AI-KD({name})"].weights.removesuffix("/aikd-last.pth")]
        assert not plain.dataset.misalign and plain.loss.weights == [0, 1]
        assert distilled.dataset.misalign and distilled.loss.weights == [1, 1]


def test_all_students_of_one_recipe_share_the_teachers_embeddings():
    trained = [cfg for script, cfg in steps("sources") if script == "train_main.py" and cfg.base.method == "aikd"]
    assert {(cfg.model.teacher_cache, cfg.base.seed, cfg.base.epochs) for cfg in trained} == {
        ("runs/demo/teacher_cache", 42069, 3)
    }
