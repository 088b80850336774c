"""Fusing: the labels of several methods become one, by the mean of their ranks."""

import logging

import numpy as np

from data.tables.join import join
from data.tables.names import Names
from data.tables.scores import percentiles, read_scores
from utils.config.prepare import FuseConfig
from utils.errors import DataError

logger = logging.getLogger(__name__)


def fuse_labels(cfg: FuseConfig) -> tuple[Names, np.ndarray]:
    """Return the images of the first file that all files know, and their weighted mean ranks (N,) in (0, 1].

    Ranks are taken among these images, equal labels share their mean rank, and the best image has 1 in each file.
    """
    tables = [read_scores(path) for path in cfg.files]
    names = tables[0].names
    rows = np.stack([join(names, table.names, cfg.key_root).rows for table in tables])
    common = (rows >= 0).all(axis=0)
    for path, found in zip(cfg.files, rows, strict=True):
        missing = np.flatnonzero(found < 0)
        if len(missing) and (cfg.on_missing == "error" or not common.any()):
            raise DataError(
                f"{path}: {len(missing):,} of {len(names):,} images of {cfg.files[0]} have no label there, first "
                f"{names[missing[0]]!r}; fix the prefix with fuse.key_root, or set fuse.on_missing: skip"
            )
    if not common.all():
        logger.warning(f"{np.count_nonzero(~common):,} of {len(names):,} images are not in every file and left out")
    better = cfg.higher_is_better or (True,) * len(tables)
    values = [
        table.values[found[common]] * (1 if up else -1) for table, found, up in zip(tables, rows, better, strict=True)
    ]
    ranks = [percentiles(one) / 100 for one in values]
    return names.take(np.flatnonzero(common)), np.average(ranks, axis=0, weights=cfg.weights)
