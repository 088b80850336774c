"""What `make demo` and `make sources` would run: every configuration is there, and every file comes from a step."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from functools import partial

import pytest

from jobs.methods import load_training
from model.label_sources import label_schema
from tests.helpers.training import ROOT
from utils.config import load_config
from utils.config.evaluate import EvaluateConfig
from utils.config.inference import InferenceConfig
from utils.config.prepare import PrepareConfig
from utils.config.sections import ModelConfig

SCHEMAS = {
    "prepare.py": PrepareConfig,
    "label.py": label_schema(),
    "evaluate.py": EvaluateConfig,
    "inference.py": InferenceConfig,
}
LOAD = {"train_main.py": load_training, **{name: partial(load_config, schema) for name, schema in SCHEMAS.items()}}
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


RECORDER = """#!{python}
import pathlib, sys
with open("log", "a") as log:
    print(*sys.argv[1:], sep="\\t", file=log)
if sys.argv[1] == "evaluate.py":
    pathlib.Path("runs/sources/evaluation").mkdir(parents=True, exist_ok=True)
    pathlib.Path("runs/sources/evaluation/summary.md").touch()
sys.exit("{failing}" in sys.argv)
"""


def run_script(folder, failing=""):
    """Run the script of `make sources` in `folder`, each command only written down; return the commands' words."""
    (folder / "python").write_text(RECORDER.format(python=sys.executable, failing=failing))
    (folder / "python").chmod(0o755)
    (folder / "log").write_text("")
    command, python = ROOT / "examples/label_sources.sh", {**os.environ, "PY": "./python"}
    done = subprocess.run([command], cwd=folder, env=python, capture_output=True, text=True)
    assert (done.returncode == 0) == (not failing), done.stderr
    return [line.split("\t") for line in (folder / "log").read_text().splitlines()]


def workplace(folder):
    """Return `folder` with the files that the script looks at: the configurations, and the demo's finished steps."""
    shutil.copytree(ROOT / "configs", folder / "configs")
    for step in ("faces", "teacher"):
        (folder / "runs/demo" / step).mkdir(parents=True)
        (folder / "runs/demo" / step / ".done").touch()
    return folder


def steps(target, folder):
    """Return (script, configuration with overrides) of each command, in the order `make target` runs them."""
    dry = subprocess.run(
        ["make", "--no-print-directory", "-nB", target], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = [shlex.split(line.partition(">")[0])[1:] for line in dry.stdout.replace("\\\n", " ").splitlines()]
    if "examples/label_sources.sh" in lines[-1]:
        lines += run_script(workplace(folder))
    found = []
    for words in lines:
        if len(words) > 2 and words[0] in LOAD:
            assert words[1] == "-c"
            found.append((words[0], LOAD[words[0]](ROOT / words[2], words[3:])))
    return found


def saved(found):
    """Return the weights and labels that the steps write."""
    weights = {f"{c.base.save_path}/{c.base.method}-last.pth" for s, c in found if s == "train_main.py"}
    return weights | {f"{c.base.save_path}/labels.pkl" for s, c in found if s == "label.py"}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return steps("sources", tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module", params=["demo", "sources"])
def found(request, tmp_path_factory):
    return request.getfixturevalue("sources") if request.param == "sources" else steps("demo", None)


def test_every_file_a_step_reads_was_written_by_an_earlier_one(found):
    for place, (script, cfg) in enumerate(found):
        earlier, read = saved(found[:place]), set()
        if script in ("train_main.py", "label.py"):
            read.add(load_config(ModelConfig, ROOT / cfg.model.config).features.weights)
        if script in ("label.py", "inference.py"):
            read.add(cfg.model.weight)
        if script == "train_main.py" and cfg.base.method == "aikd":
            read.add(cfg.dataset.quality_location)
        if script == "evaluate.py":
            read |= {one.weights for one in [*cfg.scores.values(), *cfg.recognition.values()]}
            labels = [load_config(label_schema(), ROOT / one.source) for one in cfg.scores.values() if one.source]
            read |= {label.model.weight for label in labels}
        assert read - {None} <= earlier, f"{script}, step {place}"


def test_no_two_steps_write_to_one_folder(found):
    folders = [cfg.base.save_path for _, cfg in found]
    assert len(set(folders)) == len(folders)


def test_each_source_is_evaluated_beside_both_of_its_students(sources):
    trained = [cfg for script, cfg in sources if script == "train_main.py" and cfg.base.method == "aikd"]
    scores = sources[-1][1].scores
    methods = [name for name, one in scores.items() if one.source]
    assert len(methods) >= 3
    for name in methods:
        labels = f"{load_config(label_schema(), ROOT / scores[name].source).base.save_path}/labels.pkl"
        students = {c.base.save_path: c for c in trained if c.dataset.quality_location == labels}
        plain = students[scores[f"plain({name})"].weights.removesuffix("/aikd-last.pth")]
        distilled = students[scores[f"AI-KD({name})"].weights.removesuffix("/aikd-last.pth")]
        assert not plain.dataset.misalign and plain.loss.weights == [0, 1]
        assert distilled.dataset.misalign and distilled.loss.weights == [1, 1]


def test_all_students_of_one_recipe_share_the_teachers_embeddings(sources):
    trained = [cfg for script, cfg in sources if script == "train_main.py" and cfg.base.method == "aikd"]
    assert {(cfg.model.teacher_cache, cfg.base.seed, cfg.base.epochs) for cfg in trained} == {
        ("runs/demo/teacher_cache", 42069, 3)
    }


def test_sources_skips_what_is_done_and_goes_on_where_it_failed(tmp_path):
    folder = workplace(tmp_path)
    everything = run_script(folder)
    assert len(everything) == 14
    assert run_script(folder) == []
    shutil.rmtree(folder / "runs/sources")
    stopped = run_script(folder, failing="base.save_path=runs/sources/cr_fiqa/plain")
    assert stopped == everything[: len(stopped)]
    assert run_script(folder) == everything[len(stopped) - 1 :]


def test_sources_repeats_what_depends_on_a_changed_file(tmp_path):
    folder = workplace(tmp_path)
    everything = run_script(folder)
    later = time.time() + 5
    os.utime(folder / "configs/sources/label_sdd_fiqa.yaml", (later, later))
    again = run_script(folder)
    assert [words for words in everything if "sdd_fiqa" in " ".join(words)] + everything[-1:] == again
