"""Imports point down: utils <- data, model, synthetic <- evaluation <- jobs <- scripts."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "utils": set(),
    "data": {"utils"},
    "model": {"utils"},
    "synthetic": {"utils"},
    "evaluation": {"data", "model", "utils"},
    "jobs": {"data", "evaluation", "model", "utils"},
}
SCRIPTS = {path.stem for path in ROOT.glob("*.py")}


def imported_roots(path: Path) -> set[str]:
    roots = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            roots.add(node.module.partition(".")[0])
    return roots


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_down(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        wrong = imported_roots(path) & ((ALLOWED.keys() - ALLOWED[package] - {package}) | SCRIPTS)
        assert not wrong, f"{path} imports {wrong}"


def test_the_data_package_is_not_ignored():
    patterns = (ROOT / ".gitignore").read_text().split()
    assert not {"data", "data/", "/data", "/data/", "data/*"} & set(patterns)


def test_no_script_is_too_long_to_read():
    long = {str(p.relative_to(ROOT)): n for p in ROOT.glob("*.py") if (n := len(p.read_text().splitlines())) > 400}
    assert not long
