"""Which images are compared: the pairs, their identities and folds, and pairs drawn from identity folders."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from data.tables.names import Names
from utils.errors import DataError

FOLDS = 10
"""Folds of the verification accuracy where the format states none."""


@dataclass(frozen=True)
class PairSet:
    """Hold pairs of images, each as two rows of `names`.

    first, second: (P,) int64 rows; mated: (P,) bool; fold: (P,) int32.
    identities: (N,) int64, one per name, or None where the format does not tell them.
    images: the encoded images themselves, one per name, where the file carries them (.bin).
    """

    names: Names
    first: np.ndarray
    second: np.ndarray
    mated: np.ndarray
    fold: np.ndarray
    identities: np.ndarray | None = None
    images: Sequence[bytes] | None = field(default=None, repr=False)

    def subset(self, keep: np.ndarray) -> "PairSet":
        """Return the pairs where `keep` (P,) bool holds, over the same names."""
        return PairSet(
            self.names,
            self.first[keep],
            self.second[keep],
            self.mated[keep],
            self.fold[keep],
            self.identities,
            self.images,
        )

    def used(self) -> np.ndarray:
        """Return the rows of `names` that some pair names, ascending."""
        flags = np.zeros(len(self.names), dtype=bool)
        flags[self.first] = flags[self.second] = True
        return np.flatnonzero(flags)

    def image_identities(self) -> np.ndarray:
        """Return one identity per name, (N,): the known one, else the component of the mated-pair graph."""
        if self.identities is not None:
            return self.identities
        return components(np.stack([self.first[self.mated], self.second[self.mated]], axis=1), len(self.names))

    def mated_identities(self) -> np.ndarray:
        """Return the identity of each mated pair, (M,)."""
        return self.image_identities()[self.first[self.mated]]


def without_repeats(pairs: PairSet) -> tuple[PairSet, list[str]]:
    """Leave out pairs of an image with itself and all but the first of equal pairs; return also remarks on them.

    a b and b a are the same pair. One that is listed as mated and as non-mated is left out altogether.
    """
    low, high = np.minimum(pairs.first, pairs.second), np.maximum(pairs.first, pairs.second)
    itself = low == high
    _, first, group = np.unique(low * len(pairs.names) + high, return_index=True, return_inverse=True)
    mated = np.bincount(group, pairs.mated)
    contradicted = ((mated > 0) & (mated < np.bincount(group)))[group] & ~itself
    later = np.ones(len(low), dtype=bool)
    later[first] = False
    kinds = {
        "of an image with itself": itself,
        "listed as mated and as non-mated": contradicted,
        "listed before": later & ~itself & ~contradicted,
    }
    remarks = [_left_out(pairs, rows, what) for what, found in kinds.items() if len(rows := np.flatnonzero(found))]
    return (pairs.subset(~(itself | contradicted | later)) if remarks else pairs), remarks


def _left_out(pairs: PairSet, rows: np.ndarray, what: str) -> str:
    row = int(rows[0])
    first, second = pairs.names[int(pairs.first[row])], pairs.names[int(pairs.second[row])]
    return f"left out {len(rows)} pairs {what}, first {first!r} with {second!r}"


class Generation(NamedTuple):
    """Say how pairs are drawn from identities."""

    mated_per_identity: int = 50
    """At most this many of an identity's mated pairs, drawn without replacement."""
    non_mated: int = 100_000
    """Number of different non-mated pairs, drawn from all."""
    seed: int = 0


def pairs_from_identities(names: Sequence[str], identities: Sequence[str], draw: Generation) -> PairSet:
    """Draw mated pairs within and non-mated pairs between identities; the same for any order of the names."""
    order = sorted(range(len(names)), key=lambda row: names[row])
    people, person = np.unique(
        np.array([identities[row] for row in order], dtype=object).astype(str), return_inverse=True
    )
    if len(people) < 2:
        raise DataError(
            f"{len(names)} images of {len(people)} identities give no non-mated pair; one folder per identity"
        )
    rng = np.random.default_rng(draw.seed)
    by_person = np.split(np.argsort(person, kind="stable"), np.cumsum(np.bincount(person))[:-1])
    mated = np.concatenate([_mated_of(rows, draw.mated_per_identity, rng) for rows in by_person])
    if len(mated) == 0:
        raise DataError("no identity has two images, so there is no mated pair; one folder per identity is expected")
    non_mated = _non_mated(person, draw.non_mated, rng)
    both = np.concatenate([mated, non_mated]).astype(np.int64)
    flags = np.arange(len(both)) < len(mated)
    table = Names.from_strings([names[row] for row in order])
    return PairSet(table, both[:, 0], both[:, 1], flags, even_folds(flags), person.astype(np.int64))


def components(edges_E2: np.ndarray, count: int) -> np.ndarray:
    """Return the number of the connected component of each of `count` nodes, (count,) int64."""
    graph = coo_matrix((np.ones(len(edges_E2)), edges_E2.T), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def even_folds(mated: np.ndarray) -> np.ndarray:
    """Cut mated and non-mated pairs, each in their order, into FOLDS blocks; fewer than two per fold: one block."""
    fold = np.zeros(len(mated), dtype=np.int32)
    if min(mated.sum(), (~mated).sum()) >= 2 * FOLDS:
        for kind in (mated, ~mated):
            fold[kind] = np.arange(kind.sum()) * FOLDS // kind.sum()
    return fold


def _mated_of(rows: np.ndarray, cap: int, rng: np.random.Generator) -> np.ndarray:
    """Return up to `cap` of the pairs among rows, (k, 2), ascending."""
    total = len(rows) * (len(rows) - 1) // 2
    chosen = np.arange(total) if total <= cap else np.sort(rng.choice(total, cap, replace=False))
    return rows[_unrank(chosen, len(rows))]


def _unrank(ranks: np.ndarray, n: int) -> np.ndarray:
    """Return the pairs (i, j), i < j < n, at the given places of their ascending list: (k,) -> (k, 2)."""
    starts = np.arange(n) * (2 * n - 1 - np.arange(n)) // 2
    i = np.searchsorted(starts[: max(n - 1, 1)], ranks, side="right") - 1
    return np.stack([i, ranks - starts[i] + i + 1], axis=1).astype(np.int64)


def _non_mated(person: np.ndarray, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `wanted` different pairs of rows of different people, (wanted, 2), or all when there are fewer."""
    n = len(person)
    counts = np.bincount(person)
    available = n * (n - 1) // 2 - int((counts * (counts - 1) // 2).sum())
    if wanted > available // 2:
        first, second = np.triu_indices(n, k=1)
        other = np.flatnonzero(person[first] != person[second])
        if wanted < available:
            other = np.sort(rng.choice(other, wanted, replace=False))
        return np.stack([first[other], second[other]], axis=1)
    codes = np.empty(0, dtype=np.int64)
    while len(codes) < wanted:
        pair = np.sort(rng.integers(n, size=(2 * (wanted - len(codes)) + 16, 2)), axis=1)
        pair = pair[person[pair[:, 0]] != person[pair[:, 1]]]
        drawn = np.concatenate([codes, pair[:, 0] * n + pair[:, 1]])
        codes = drawn[np.sort(np.unique(drawn, return_index=True)[1])][:wanted]
    codes = np.sort(codes)
    return np.stack([codes // n, codes % n], axis=1)
