"""docs/fidelity.md names the test that holds each difference; the tests exist."""

import re

from tests.helpers.training import ROOT


def test_every_named_test_exists():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/fidelity.md").read_text()))
    defined = set()
    for path in (ROOT / "tests").glob("test_*.py"):
        defined |= set(re.findall(r"^def (test_\w+)", path.read_text(), re.M))
    assert len(named) >= 25
    assert not named - defined


def test_every_defect_has_a_row_with_a_test():
    rows = re.findall(r"^\| (\d+) \|.*\| (`test_.*) \|$", (ROOT / "docs/fidelity.md").read_text(), re.M)
    assert [int(number) for number, _ in rows] == list(range(1, 14))
