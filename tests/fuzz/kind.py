"""What is mutated: whole files of one kind, and the public reader that must refuse a damaged one."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.fuzz.mutation import Mutation, mutated

NAMES = [f"id_{n % 3}/{n}.jpg" for n in range(6)]


MARK = b"--index--"


class Kind(NamedTuple):
    """One kind of file."""

    suffix: str
    whole: list[bytes]
    """Good files, from which the mutations start."""
    read: Callable[[Path], object]
    """Raises UserError, or ImageError, where the file is not good."""
    mutate: Mutation = mutated
    share: float = 1.0
    """Of the inputs, compared with the other kinds: slow readers get fewer."""


def saved(save: Callable[[io.BytesIO], object]) -> bytes:
    stream = io.BytesIO()
    save(stream)
    return stream.getvalue()


def picture(form: str, mode: str = "RGB", **options) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 255, (24, 20, 3), dtype=np.uint8)
    return saved(lambda stream: Image.fromarray(pixels).convert(mode).save(stream, form, **options))


def parquet(columns: dict, **options) -> bytes:
    return saved(lambda stream: pq.write_table(pa.table(columns), stream, **options))


JPEG = picture("JPEG", quality=60)
