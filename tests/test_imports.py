"""Imports point down: utils <- data, model, synthetic <- evaluation <- jobs <- scripts. No file is in a circle."""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "utils": set(),
    "data": {"utils"},
    "model": {"utils"},
    "synthetic": {"utils"},
    "evaluation": {"data", "model", "utils"},
    "jobs": {"data", "evaluation", "model", "synthetic", "utils"},
}
"""Folder -> folders it may import, beside itself. Scripts may import all of them, and nothing imports a script."""
ROOMS = {
    "evaluation": ["pairs", "measure", "protocol", "report"],
}
"""Folder -> its rooms, each of which imports only itself and the ones before it."""
SCRIPTS = {path.stem for path in ROOT.glob("*.py")}


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def product() -> dict[str, Path]:
    """Return every file of the product by its module's name."""
    files = [*ROOT.glob("*.py"), *(path for folder in ALLOWED for path in (ROOT / folder).rglob("*.py"))]
    return {module(path): path for path in files}


def imported_names(text: str, own: str = "") -> Iterator[str]:
    """Yield every dotted name an import in `text` may load, wherever it stands; `own`: the package it lies in."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = own.split(".")[: len(own.split(".")) + 1 - node.level] if node.level else []
            name = ".".join([*above, *([node.module] if node.module else [])])
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)


def import_graph(texts: dict[str, str], packages: Iterable[str] = ()) -> dict[str, set[str]]:
    """Return module -> modules among `texts` that it imports; `packages`: those that are an __init__.py."""
    graph = {}
    for name, text in texts.items():
        own = name if name in packages else name.rpartition(".")[0]
        graph[name] = {other for other in imported_names(text, own) if other in texts} - {name}
    return graph


def circles(graph: dict[str, set[str]]) -> set[tuple[str, ...]]:
    """Return the groups of modules that import each other, directly or through others."""
    names = sorted(graph)
    row = {name: i for i, name in enumerate(names)}
    edges = [(row[name], row[other]) for name, others in graph.items() for other in others]
    matrix = coo_matrix(([1] * len(edges), tuple(zip(*edges))), shape=(len(names), len(names)))
    count, group = connected_components(matrix, directed=True, connection="strong")
    found = [tuple(name for name in names if group[row[name]] == number) for number in range(count)]
    return {members for members in found if len(members) > 1}


@cache
def product_graph() -> dict[str, set[str]]:
    files = product()
    packages = [name for name, path in files.items() if path.name == "__init__.py"]
    return import_graph({name: path.read_text(encoding="utf-8") for name, path in files.items()}, packages)


def test_circles_are_found():
    texts = {
        "a": "import b.c",
        "b": "",
        "b.c": "def late():\n    from .d import x",
        "b.d": "from a import y",
        "b.e": "import a\nif False:\n    import numpy",
        "f": "from b import e",
    }
    assert circles(import_graph(texts, ["b"])) == {("a", "b.c", "b.d")}
    assert import_graph(texts, ["b"])["f"] == {"b", "b.e"}


def test_no_file_is_in_a_circle_of_imports():
    assert circles(product_graph()) == set()


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_down(package):
    graph = product_graph()
    own = {name: others for name, others in graph.items() if name.partition(".")[0] == package}
    assert own
    for name, others in own.items():
        wrong = {other.partition(".")[0] for other in others} - ALLOWED[package] - {package}
        assert not wrong, f"{name} imports {wrong}"


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_only_the_ones_before_them(package):
    rank = {f"{package}.{room}": i for i, room in enumerate(ROOMS[package])}
    rooms = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    assert rooms == set(ROOMS[package])
    for name, others in product_graph().items():
        place = ".".join(name.split(".")[:2])
        if place in rank:
            wrong = [other for other in others if rank.get(".".join(other.split(".")[:2]), -1) > rank[place]]
            assert not wrong, f"{name} imports {wrong}"


def test_no_script_is_imported():
    graph = product_graph()
    assert SCRIPTS <= graph.keys()
    assert {name: others & SCRIPTS for name, others in graph.items() if others & SCRIPTS} == {}


def test_the_data_package_is_not_ignored():
    patterns = (ROOT / ".gitignore").read_text().split()
    assert not {"data", "data/", "/data", "/data/", "data/*"} & set(patterns)


def test_no_script_is_too_long_to_read():
    long = {str(p.relative_to(ROOT)): n for p in ROOT.glob("*.py") if (n := len(p.read_text().splitlines())) > 400}
    assert not long
