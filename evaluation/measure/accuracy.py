"""Verification accuracy of similarities: the protocol of LFW."""

import numpy as np


def verification_accuracy(similarity: np.ndarray, mated: np.ndarray, fold: np.ndarray) -> float:
    """Compute the mean over folds of the accuracy at the threshold that is best on the other folds (LFW protocol).

    similarity (P,), mated (P,) bool, fold (P,) integers. With a single fold the threshold is chosen on it.
    """
    order = np.argsort(similarity, kind="stable")
    similarity, mated, fold = similarity[order], mated[order], fold[order]
    accuracies = []
    for held_out in np.unique(fold):
        test = fold == held_out
        rest = ~test if not test.all() else test
        accept = similarity[test] >= _best_threshold(similarity[rest], mated[rest])
        accuracies.append(np.mean(accept == mated[test]))
    return float(np.mean(accuracies))


def _best_threshold(ranked: np.ndarray, mated: np.ndarray) -> float:
    """Return the middle between the two ascending scores that part mated from non-mated pairs best."""
    correct = np.concatenate([[0], np.cumsum(1 - 2 * mated.astype(np.int64))])
    splittable = np.concatenate([[True], ranked[1:] != ranked[:-1], [True]])
    best = int(np.argmax(np.where(splittable, correct, np.iinfo(np.int64).min)))
    padded = np.concatenate([[ranked[0] - 1.0], ranked, [ranked[-1] + 1.0]])
    return float((padded[best] + padded[best + 1]) / 2)
