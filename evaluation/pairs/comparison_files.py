"""Comparison scores of a matcher that gives no embeddings: `imgA,imgB,score` in text, and the JSON of dasec's EDC code.

dasec: github.com/dasec/quality-assessment-evaluation, example_data.json: `similarity_scores: {type: mated,
scores_by_pair_ids: {A-B: 0.7}}` and `quality_scores_by_sample_id_per_algorithm: {METHOD: {A: 0.4}}`.
"""

import json
import math
import posixpath
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.tables.join import join
from data.tables.names import Names
from data.tables.scores import ScoreTable
from evaluation.pairs.rows import Row, collect, lines_of
from evaluation.pairs.sets import PairSet
from utils.errors import DataError
from utils.outside.reading import reading

_TYPES = {"mated": True, "nonmated": False}
_QUALITIES = "quality_scores_by_sample_id_per_algorithm"


class ComparedPair(NamedTuple):
    """One comparison as text; mated is None where the file does not say."""

    first: str
    second: str
    score: float
    mated: bool | None = None


def pair_scores(paths: Sequence[str], pairs: PairSet, key_root: str | None) -> np.ndarray:
    """Return the score of each pair, (P,) float64, from files that hold it in either order; NaN where none does.

    Of two comparisons of the same images in opposite order, the one in the order of the pair counts.
    """
    index: dict[str, int] = {}
    found: dict[tuple[int, int], float] = {}
    for path in paths:
        for one in read_comparisons(Path(path)):
            key = index.setdefault(one.first, len(index)), index.setdefault(one.second, len(index))
            if found.setdefault(key, one.score) != one.score:
                raise DataError(
                    f"{path}: {one.first!r} and {one.second!r} have the scores {found[key]:g} and {one.score:g}; keep "
                    "one of them"
                )
    rows = join(pairs.names, Names.from_strings(list(index)), key_root).rows
    keys = zip(rows[pairs.first].tolist(), rows[pairs.second].tolist(), strict=True)
    values = (found.get(key, found.get(key[::-1], math.nan)) for key in keys)
    return np.fromiter(values, np.float64, len(pairs.first))


def read_comparisons(path: Path) -> Iterator[ComparedPair]:
    """Yield the comparisons of a file of either form."""
    with reading(path, way_out="expected lines `imgA,imgB,score`, or dasec's JSON"):
        yield from _dasec_comparisons(path) if path.suffix.lower() == ".json" else _text_comparisons(path)


def _text_comparisons(path: Path) -> Iterator[ComparedPair]:
    for number, line in lines_of(path):
        for separator in ("\t", ",", ";", None):
            cells = [cell.strip().strip('"') for cell in line.split(separator)]
            if len(cells) == 3 and (score := _number(cells[2])) is not None:
                yield ComparedPair(cells[0], cells[1], score)
                break
        else:
            if number > 1:  # the first line may hold titles
                raise DataError(f"{path}, line {number}: expected `imgA,imgB,score`, found {line[:80]!r}")


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def read_dasec(path: Path) -> PairSet:
    """Read the pairs of dasec's JSON, all of them mated or all non-mated."""
    rows = (Row(one.first, one.second, bool(one.mated), -1) for one in _dasec_comparisons(path))
    return collect(rows, path, lambda name: posixpath.splitext(name)[0])


def is_dasec(path: str | Path) -> bool:
    """Tell whether a file is dasec's JSON with qualities."""
    if Path(path).suffix.lower() != ".json":
        return False
    with reading(path):
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    return isinstance(content, dict) and _QUALITIES in content


def read_dasec_qualities(path: str | Path, method: str) -> ScoreTable:
    """Read the quality scores of one method from dasec's JSON."""
    with reading(path, way_out="expected dasec's JSON"):
        found = _mapping(_content(Path(path)).get(_QUALITIES), Path(path), _QUALITIES)
        if method not in found:
            raise DataError(f"{path}: holds no scores of {method!r}, but of {', '.join(found)[:200]}")
        scores = _mapping(found[method], Path(path), method)
        values = np.array([float(value) for value in scores.values()], np.float64)
        if not np.isfinite(values).all():
            name = list(scores)[int(np.argmin(np.isfinite(values)))]
            raise DataError(f"{path}: the quality of {name!r} is not finite; mend or remove it")
        return ScoreTable(Names.from_strings(list(scores)), values)


def _dasec_comparisons(path: Path) -> Iterator[ComparedPair]:
    content = _content(path)
    similarity = _mapping(content.get("similarity_scores"), path, "similarity_scores")
    kind = str(similarity.get("type")).lower().replace("-", "")
    if kind not in _TYPES:
        raise DataError(f"{path}: similarity_scores.type is {similarity.get('type')!r}; expected mated or non-mated")
    qualities = content.get(_QUALITIES) or {}
    known = {name for one in _mapping(qualities, path, _QUALITIES).values() for name in _mapping(one, path, "scores")}
    listed = _mapping(similarity.get("scores_by_pair_ids"), path, "similarity_scores.scores_by_pair_ids")
    for pair, score in listed.items():
        first, second = _images_of(pair, known, path)
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise DataError(f"{path}: the score of {pair!r} is {score!r}; expected a finite number")
        yield ComparedPair(first, second, float(score), _TYPES[kind])


def _images_of(pair: str, known: Collection[str], path: Path) -> tuple[str, str]:
    """Part `A-B` where both sides are known images, or at its only hyphen."""
    places = [place for place, letter in enumerate(pair) if letter == "-"]
    fitting = [place for place in places if pair[:place] in known and pair[place + 1 :] in known] or places
    if len(fitting) != 1:
        raise DataError(f"{path}: {pair!r} cannot be parted into two images; expected A-B, one hyphen between them")
    return pair[: fitting[0]], pair[fitting[0] + 1 :]


def _content(path: Path) -> Mapping[str, Any]:
    return _mapping(json.loads(path.read_text(encoding="utf-8")), path, "the file")


def _mapping(value: Any, path: Path, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{path}: {what} is no mapping of names; expected dasec's JSON, see docs/formats.md")
    return value
