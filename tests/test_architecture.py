"""docs/architecture.md names files and functions on the way of a sample and of an image; they exist."""

import ast
import functools
import re
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path

import pytest

import train_main
from tests.helpers import inference, training
from tests.helpers.images import write_crops
from tests.helpers.training import ROOT

TEXT = (ROOT / "docs/architecture.md").read_text()
ROWS = re.findall(r"^\| `([\w/]+\.py)` \| (`.+?`) \|", TEXT, re.M)


def defined(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("path", "functions"), ROWS, ids=[f"{path}" for path, _ in ROWS])
def test_every_function_on_the_way_exists(path, functions):
    assert set(re.findall(r"`(\w+)`", functions)) <= defined(path)


def test_every_file_named_as_the_one_place_exists():
    now = TEXT.partition("## Every hop, counted")[0]
    named = re.findall(r"`((?:data|jobs|model|utils)/[\w/]+\.py)`", now)
    assert len(named) > 20 and not [name for name in named if not (ROOT / name).is_file()]


HOP = re.compile(r"^\d+\. `([\w/]+\.py)` `([\w.<>]+)` -> `([\w/]+\.py)` `([\w.<>]+)`$", re.M)
LISTS = {
    name: HOP.findall(part.partition("\n\nA")[0])
    for name, part in re.findall(r"^An? (sample|image) now:\n\n(.*?)(?=\n\nAn? )", TEXT, re.M | re.S)
}


@functools.cache
def short(code: types.CodeType) -> tuple[str, str]:
    """Return file and function of some code; before Python 3.11 it does not know its class."""
    path = Path(code.co_filename)
    name = getattr(code, "co_qualname", code.co_name)
    return (path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else ""), name


def hops_of(run: Callable[[], object]) -> set[tuple[str, str, str, str]]:
    """Return the calls between files that `run` makes, in all its threads."""
    found = set()

    def note(frame: types.FrameType, event: str, _: object) -> None:
        if event == "call" and (callee := short(frame.f_code))[0]:
            above = frame.f_back
            while above is not None and not short(above.f_code)[0]:
                above = above.f_back
            if above is not None and short(above.f_code)[0] != callee[0]:
                found.add((*short(above.f_code), *callee))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return found


def train(folder: Path) -> set[tuple[str, str, str, str]]:
    config = str(training.write_setup(folder))
    return hops_of(lambda: train_main.main(["-c", config, "base.max_steps=1"]))


def score(folder: Path) -> set[tuple[str, str, str, str]]:
    write_crops(inference.write_setup(folder) / "faces", 3)
    return hops_of(lambda: inference.infer(folder))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="code does not know the class it is in")
@pytest.mark.parametrize(("name", "run"), [("sample", train), ("image", score)])
def test_every_numbered_hop_is_made(tmp_path, name, run):
    made = run(tmp_path)
    assert [hop for hop in LISTS[name] if hop not in made] == []


@pytest.mark.parametrize("name", ["sample", "image"])
def test_the_counts_are_those_of_the_lists(name):
    files = {file for hop in LISTS[name] for file in (hop[0], hop[2])}
    stated = re.search(rf"^\| an? {name} \| .*? \| (\d+) files in (\d+) hops \|$", TEXT, re.M)
    assert (len(files), len(LISTS[name])) == tuple(map(int, stated.groups()))
