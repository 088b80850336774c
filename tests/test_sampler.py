"""data/samples/sampler.py: the order of the batches, resumed anywhere, shared among processes."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.samples.sampler import EpochSampler, Shard
from tests.helpers.loading import params, sequence


def test_batches_in_order():
    assert sequence([4, 7, 2, 9, 1], 2, shuffle=False, end_epoch=2) == [
        [(0, 4), (0, 7)],
        [(0, 2), (0, 9)],
        [(1, 4), (1, 7)],
        [(1, 2), (1, 9)],
    ]


def test_the_permutation_comes_from_seed_and_epoch():
    rows = np.arange(100, 110)
    for epoch in (0, 3):
        order = rows[np.random.default_rng([5, epoch]).permutation(10)].tolist()
        batches = sequence(rows, 4, position=(epoch, 0), end_epoch=epoch + 1)
        assert [row for batch in batches for _, row in batch] == order
        assert {e for batch in batches for e, _ in batch} == {epoch}
    assert sequence(rows, 4) != sequence(rows, 4, seed=6)


@pytest.mark.parametrize(
    ("rows", "batch_size", "sizes"), [(9, 4, [4, 4]), (10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 4, [3]), (1, 4, [])]
)
def test_only_a_last_batch_of_one_is_left_out(rows, batch_size, sizes):
    """BatchNorm cannot train on one sample (docs/fidelity.md, row 10)."""
    assert [len(batch) for batch in sequence(np.arange(rows), batch_size)] == sizes


def test_validation_keeps_every_row():
    sampler = EpochSampler(np.arange(9), params(4, shuffle=False), 0)
    sampler.keep_all = True
    assert [[row for _, row in batch] for batch in sampler] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert sampler.steps_per_epoch() == 3


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 17), st.integers(1, 3), st.data())
def test_resuming_anywhere_gives_the_rest(rows, batch_size, epochs, data):
    whole = sequence(np.arange(rows), batch_size, end_epoch=epochs)
    steps = EpochSampler(np.arange(rows), params(batch_size), 5).steps_per_epoch()
    assert len(whole) == steps * epochs
    done = data.draw(st.integers(0, len(whole)))
    position = divmod(done, steps) if steps else (0, 0)
    assert sequence(np.arange(rows), batch_size, position=position, end_epoch=epochs) == whole[done:]


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 6), st.integers(1, 4))
def test_processes_share_the_steps_of_one(rows, per_process, world_size):
    """Joined over the ranks, step by step, the parts are one process's batches of the total size."""
    total = per_process * world_size
    alone = sequence(np.arange(rows), total, end_epoch=2)
    parts = [sequence(np.arange(rows), total, end_epoch=2, shard=Shard(rank, world_size)) for rank in range(world_size)]
    assert len({len(part) for part in parts}) == 1
    joined = [list(itertools.chain.from_iterable(step)) for step in zip(*parts, strict=True)]
    if rows % total >= 2 * world_size or rows % total < 2:
        assert joined == alone
    sizes = [[len(part) for part in step] for step in zip(*parts, strict=True)]
    for step, full in zip(sizes, joined, strict=True):
        assert step == [per_process] * world_size if len(full) == total else min(step) >= 2
        assert max(step) - min(step) <= 1


def test_full_batches_are_whole_batches_r_and_r_plus_n():
    small = sequence(np.arange(12), 3)
    for rank in range(2):
        assert sequence(np.arange(12), 6, shard=Shard(rank, 2)) == small[rank::2]
