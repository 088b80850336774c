"""Say where figures on aligned crops are so bad that pairs, embeddings or scores are probably not what they seem."""

from collections.abc import Iterator, Sequence

import numpy as np

from evaluation.measure.panel import MethodResult, Panel

_CHANCE = 0.6
_HALF = 0.5
_ABOVE = 1.1
"""A normalised area above it is remarked on where there is no interval."""
_FEW_ERRORS = 20
"""With fewer mated pairs in error, an area without an interval says nothing."""


def doubts(panels: Sequence[Panel]) -> list[str]:
    """Return a remark on each figure that right inputs do not give."""
    return list(dict.fromkeys(line for panel in panels for line in _of_panel(panel)))


def _of_panel(panel: Panel) -> Iterator[str]:
    place = f"datasets.{panel.dataset}: {panel.recognition}"
    check = "are the mated flags, the names and the order of the embeddings right, or are its comparisons distances?"
    where = "at a fixed threshold" if panel.fmr is None else f"at FMR {panel.fmr:g}"
    if panel.fnmr0 > _HALF:
        yield f"{place} refuses {panel.fnmr0:.0%} of the mated pairs {where}; {check}"
    if panel.accuracy < _CHANCE:
        yield f"{place} tells mated pairs from others with an accuracy of {panel.accuracy:.0%}, 50% is chance; {check}"
    for method, result in panel.results.items():
        above = [f"{area:.3f} to {limit:g}" for limit, area in _worse_than_nothing(result, panel.errors)]
        if above:
            yield (
                f"{place}: discarding by {method} raises the error, normalised pAUC {', '.join(above)} where 1 is no "
                "gain; do its scores count downwards (higher_is_better: 0)?"
            )


def _worse_than_nothing(result: MethodResult, errors: float) -> Iterator[tuple[float, float]]:
    """Yield (limit, area) where the whole interval, or without one the area itself, is clearly above 1."""
    for limit, area in result.pauc.items():
        low = result.bounds(limit)[0]
        sure = low > 1 if np.isfinite(low) else area.normalised > _ABOVE and errors >= _FEW_ERRORS
        if sure:
            yield limit, area.normalised
