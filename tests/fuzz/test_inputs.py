"""20,000 mutated files, the same every time, and those that once were read wrongly: a sentence or a value, soon."""

import pytest

from data.images.decode import ImageError
from tests.fuzz.kinds import KINDS
from tests.fuzz.running import content_of, counts, findings, folder_of, kept, problem_of
from tests.helpers.processes import forkserver
from utils.errors import UserError

TOTAL, SEED = 20_000, 21
COUNTS = counts(TOTAL)


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files_end_as_one_sentence(kind):
    found = [f"input {one.number}: {one.problem}" for one in findings(forkserver(), kind, SEED, COUNTS[kind])]
    assert not found, "\n".join(found[:20])


@pytest.mark.parametrize("kind", KINDS)
def test_whole_files_are_read(tmp_path, kind):
    """What the mutations start from is good: they reach the readers' depths."""
    for number, whole in enumerate(KINDS[kind].whole):
        path = tmp_path / f"{number}{KINDS[kind].suffix}"
        path.write_bytes(whole)
        KINDS[kind].read(path)


def test_inputs_are_the_same_for_a_seed_and_different_for_another():
    for kind in KINDS:
        first = [content_of(kind, 1, number) for number in range(20)]
        assert first == [content_of(kind, 1, number) for number in range(20)]
        assert len(set(first)) > 10
        assert first != [content_of(kind, 2, number) for number in range(20)]
    assert abs(sum(COUNTS.values()) - TOTAL) < 0.01 * TOTAL
    assert len({folder_of(kind) for kind in KINDS}) == len(KINDS)
    assert all(content_of(kind, 1, -1) == kept(kind)[-1] for kind in KINDS if kept(kind))


def test_what_is_wrong_is_noticed(tmp_path):
    path = tmp_path / "input.txt"
    path.write_text("")
    kind = next(iter(KINDS.values()))

    def failing(error):
        def read(_):
            raise error

        return problem_of(kind._replace(read=read), path)

    assert "KeyError" in failing(KeyError("a"))
    assert "characters" in failing(ImageError("a" * 401))
    assert "does not name the file" in failing(UserError("it is wrong"))
    assert failing(UserError(f"{path}: it is\nwrong " + "a" * 401)) is None
    assert problem_of(kind._replace(read=lambda _: 1), path) is None
