"""docs/architecture.md names files and functions on the way of a sample and of an image; they exist."""

import ast
import re

import pytest

from tests.helpers.training import ROOT

TEXT = (ROOT / "docs/architecture.md").read_text()
ROWS = re.findall(r"^\| `([\w/]+\.py)` \| (`.+?`) \|", TEXT, re.M)


def defined(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("path", "functions"), ROWS, ids=[f"{path}" for path, _ in ROWS])
def test_every_function_on_the_way_exists(path, functions):
    assert set(re.findall(r"`(\w+)`", functions)) <= defined(path)


def test_a_sample_passes_at_most_ten_files_and_an_image_eight():
    sample, image = (re.findall(r"^\| `([\w/]+\.py)`", part, re.M) for part in re.split(r"^## ", TEXT, flags=re.M)[2:])
    assert 0 < len(set(sample)) <= 10 and 0 < len(set(image)) <= 8


def test_every_file_named_as_the_one_place_exists():
    now = TEXT.partition("Before the house was rebuilt")[0]
    named = re.findall(r"`((?:data|jobs|model|utils)/[\w/]+\.py)`", now)
    assert len(named) > 20 and not [name for name in named if not (ROOT / name).is_file()]
