"""Verification accuracy of similarities, by the protocol of LFW: thresholds come from the other folds."""

import numpy as np


def verification_accuracy(similarity: np.ndarray, mated: np.ndarray, fold: np.ndarray) -> float:
    """Compute the mean over folds of the share of pairs told right at the threshold that is best on the other folds.

    similarity (P,), mated (P,) bool, fold (P,) integers. With a single fold the threshold is chosen on it.
    """
    return _over_folds(similarity, mated, fold, np.ones(len(mated), dtype=np.int64))


def balanced_accuracy(similarity: np.ndarray, mated: np.ndarray, fold: np.ndarray) -> float:
    """Compute the same with mated and non-mated pairs of equal weight; NaN where there are none of one kind."""
    count = int(mated.sum())
    if count in (0, len(mated)):
        return float("nan")
    return _over_folds(similarity, mated, fold, np.where(mated, len(mated) - count, count))


def _over_folds(similarity: np.ndarray, mated: np.ndarray, fold: np.ndarray, weight: np.ndarray) -> float:
    order = np.argsort(similarity, kind="stable")
    similarity, mated, fold, weight = similarity[order], mated[order], fold[order], weight[order]
    accuracies = []
    for held_out in np.unique(fold):
        test = fold == held_out
        rest = ~test if not test.all() else test
        accept = similarity[test] >= _best_threshold(similarity[rest], mated[rest], weight[rest])
        accuracies.append(np.average(accept == mated[test], weights=weight[test]))
    return float(np.mean(accuracies))


def _best_threshold(ranked: np.ndarray, mated: np.ndarray, weight: np.ndarray) -> float:
    """Return the middle between the two ascending scores that part mated from non-mated pairs best."""
    correct = np.concatenate([[0], np.cumsum(np.where(mated, -weight, weight))])
    splittable = np.concatenate([[True], ranked[1:] != ranked[:-1], [True]])
    best = int(np.argmax(np.where(splittable, correct, np.iinfo(np.int64).min)))
    padded = np.concatenate([[ranked[0] - 1.0], ranked, [ranked[-1] + 1.0]])
    return float((padded[best] + padded[best + 1]) / 2)
