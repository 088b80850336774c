"""data/checks/landmark_order.py: a wrong order or unit of landmarks is refused, real faces and profiles are not."""

import time
from pathlib import Path

import numpy as np
import pytest

from data.alignment import TEMPLATE_112
from data.checks.landmark_order import misfit_px, require_faces
from data.tables.landmarks import read_landmarks
from synthetic.geometry import Pose
from tests.helpers.faces import WRONG_ORDERS
from utils.errors import DataError

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "faces" / "landmarks.csv"
HEAD_MM = np.array([[-31.5, 0, 0], [31.5, 0, 0], [0, 34, 32], [-26, 68, 8], [26, 68, 8]], np.float64)
"""Eyes, nose tip and mouth corners of a head in 3D: x to the image's right, y down, z to the camera."""


def heads(count: int, yaw: float, seed: int = 0) -> np.ndarray:
    """Return the points of different heads turned by about `yaw`, seen from afar, in pixels."""
    rng = np.random.default_rng(seed)
    heads = HEAD_MM + rng.normal(0, 3, (count, 5, 3))
    turns = [Pose(yaw * rng.choice([-1, 1]), rng.uniform(-30, 30), rng.uniform(-15, 15)).matrix() for _ in heads]
    return np.stack([0.8 * (head @ turn.T)[:, :2] + 100 for head, turn in zip(heads, turns, strict=True)])


def test_misfit_is_zero_for_any_similarity_of_the_template_and_large_for_another_order():
    turn = 3.7 * np.array([[np.cos(2.0), -np.sin(2.0)], [np.sin(2.0), np.cos(2.0)]])
    faces = np.stack([TEMPLATE_112, TEMPLATE_112 @ turn.T + [500, -20]])
    assert misfit_px(faces) == pytest.approx([0, 0], abs=1e-9)
    shifted = TEMPLATE_112.copy()
    shifted[2] += [0, 5]  # the nose alone: what is left of 5 px after the best similarity, RMS over 5 points
    by_hand = np.sqrt(_residual(shifted) / 5)
    assert misfit_px(shifted[None]) == pytest.approx([by_hand])
    assert 0 < by_hand < 3
    mirrored_eyes, exchanged = TEMPLATE_112[[1, 0, 2, 4, 3]], TEMPLATE_112[:, ::-1]
    one_axis_first = TEMPLATE_112.T.reshape(5, 2)
    assert (misfit_px(np.stack([mirrored_eyes, exchanged, one_axis_first])) > 13).all()
    assert np.isfinite(misfit_px(np.zeros((1, 5, 2)))).all()


def _residual(points):
    """Return the least sum of squares to the template, by linear least squares in (a, b, tx, ty)."""
    rows, target = [], []
    for (x, y), (u, v) in zip(points, TEMPLATE_112, strict=True):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        target += [u, v]
    return np.linalg.lstsq(np.array(rows), np.array(target), rcond=None)[1][0]


def test_poses_up_to_the_profile_pass_and_a_folder_of_profiles_gives_one_line():
    for yaw in (0, 20, 40, 55):
        assert require_faces("x.csv", heads(400, yaw)) == []
    lines = require_faces("x.csv", heads(400, 88))
    assert lines == ["x.csv: 100% of the landmarks are unlike a face in template order; are these profiles?"]
    mixed = np.concatenate([heads(900, 10), heads(100, 88)])
    assert require_faces("x.csv", mixed)[0].startswith("x.csv: 10% of the landmarks")
    assert require_faces("x.csv", mixed[:900]) == require_faces("x.csv", np.zeros((0, 5, 2))) == []


@pytest.mark.parametrize("looks", WRONG_ORDERS)
def test_a_wrong_order_or_unit_is_refused_by_name(looks):
    points = WRONG_ORDERS[looks](np.concatenate([heads(300, 5), heads(100, 40)]))
    left = WRONG_ORDERS[looks](heads(300, 5, seed=3) - (30, 0))  # there, x1..x5,y1..y5 come to 10 px or so
    for some in (points, points[:1], left, np.concatenate([points, heads(300, 5, seed=1)])):
        with pytest.raises(DataError) as caught:
            require_faces("x.csv", some)
        assert str(caught.value).startswith("x.csv: ") and looks in str(caught.value)
    share = np.concatenate([points[:100], heads(300, 5, seed=1)])
    assert require_faces("x.csv", share)[0].startswith("x.csv: 25% of the landmarks are unlike a face")


def test_points_that_are_no_face_in_any_order_are_refused():
    with pytest.raises(DataError, match=r"no face in template order; write eye"):
        require_faces("x.csv", np.random.default_rng(2).uniform(0, 100, (500, 5, 2)))
    with pytest.raises(DataError):
        require_faces("x.csv", np.full((3, 5, 2), 7.0))


def test_points_of_another_kind_that_misfit_no_more_than_profiles_are_refused():
    jaw = np.column_stack([np.cos(angles := np.linspace(np.pi, 0.75 * np.pi, 5)) * 77, np.sin(angles) * 98])
    box_first = np.array([[-30, -25], [105, 110], [56, 72], [42, 92], [71, 92]])  # x1, y1, x2, y2 are those of a box
    for points in (jaw, box_first):
        some = np.broadcast_to(points, (300, 5, 2)) + np.random.default_rng(4).normal(0, 1, (300, 5, 2))
        assert (misfit_px(some) < 19).mean() > 0.5
        with pytest.raises(DataError, match=r"100% of the landmarks are no face"):
            require_faces("x.csv", some)


def test_millions_of_rows_cost_no_time():
    points = np.broadcast_to(TEMPLATE_112.astype(np.float32), (3_000_000, 5, 2))
    started = time.process_time()
    assert require_faces("x.csv", points) == []
    assert time.process_time() - started < 0.1


@pytest.mark.skipif(not SHARED.exists(), reason="the shared photographs are not here")
def test_real_photographs_pass_and_in_a_wrong_order_do_not():
    points = read_landmarks(SHARED).points
    assert require_faces("x.csv", points) == []
    assert all(require_faces("x.csv", points[row : row + 1]) == [] for row in range(len(points)))
    for looks, reorder in WRONG_ORDERS.items():
        with pytest.raises(DataError, match=looks.replace(".", "[.]")):
            require_faces("x.csv", reorder(points))
