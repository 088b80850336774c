"""Differences of pAUC on the same pairs and replicates: always A minus B, so that below 0 A is better."""

from collections.abc import Iterable
from itertools import combinations

from evaluation.measure.bootstrap import Comparison, compare
from evaluation.measure.panel import Panel
from utils.present import present


def origins(methods: Iterable[str]) -> dict[str, str]:
    """Return the X each method was made of: `AI-KD(X)` and `plain(X)` of X, any other of itself."""
    methods = list(methods)
    return {name: next((x for x in methods if name.endswith(f"({x})")), name) for name in methods}


def method_pairs(methods: Iterable[str]) -> list[tuple[str, str]]:
    """Return every two methods as (A, B): of X and what was made of it the later before the earlier, X always last."""
    methods = list(methods)
    source = origins(methods)
    return [(b, a) if source[a] == source[b] and b != source[b] else (a, b) for a, b in combinations(methods, 2)]


def method_difference(panel: Panel, a: str, b: str, limit: float) -> Comparison:
    """Compare method A with method B: pAUC of A minus that of B."""
    one, two = panel.results[a], panel.results[b]
    values = one.pauc[limit].normalised, two.pauc[limit].normalised
    return compare(*values, one.replicates[limit], two.replicates[limit])


def misalignment_loss(panel: Panel, method: str, limit: float) -> Comparison:
    """Compare a method with itself: pAUC on the misaligned crops minus that on aligned crops of the same pairs."""
    one, two = panel.results[method], present(panel.aligned).results[method]
    values = one.pauc[limit].normalised, two.pauc[limit].normalised
    return compare(*values, one.replicates[limit], two.replicates[limit])
