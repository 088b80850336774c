"""data/checks/landmark_order.py: a wrong order or unit of landmarks is refused, real faces and profiles are not."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from data.alignment import TEMPLATE_112
from data.checks.landmark_order import misfit_px, require_faces, unlike_face
from data.tables.landmarks import read_landmarks
from synthetic.geometry import Camera, Pose, Shape, head_axes, skull_relief
from synthetic.identity import draw_identity
from synthetic.render import landmark_st
from synthetic.texture import Expression
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


def _residual(points, target=TEMPLATE_112):
    """Return the least sum of squares to the target, by linear least squares in (a, b, tx, ty)."""
    rows = [row for x, y in points for row in ([x, -y, 1, 0], [y, x, 0, 1])]
    return np.linalg.lstsq(np.array(rows), target.reshape(-1), rcond=None)[1][0]


def test_no_pose_is_unlike_a_face_and_gives_no_line():
    for yaw in (0, 20, 40, 60, 75, 90):
        assert require_faces("x.csv", heads(400, yaw)) == []
        assert not unlike_face(heads(400, yaw, seed=1)).any()
    sides = [
        Pose(yaw, pitch, roll).matrix() for yaw in range(-90, 91, 9) for pitch in (-45, 0, 45) for roll in (0, 100)
    ]
    assert not unlike_face(np.stack([(HEAD_MM @ turn.T)[:, :2] for turn in sides])).any()
    assert misfit_px(np.stack([(HEAD_MM @ turn.T)[:, :2] for turn in sides])).max() > 16  # far from the template


def test_no_rendered_person_seen_from_the_side_is_unlike_a_face():
    """Their landmarks lie on surfaces that know nothing of the head in landmark_order.py."""
    rng, faces = np.random.default_rng(0), []
    for number in range(12):
        who = draw_identity(rng, number)
        on_head = Shape(head_axes(who), skull_relief(who)).surface_points(landmark_st(who, Expression()))
        faces += [Camera(Pose(yaw, 15, 5), 60, (80, 80), 160).project(on_head)[:, :2] for yaw in (-88, -60, 70, 90)]
    assert misfit_px(np.stack(faces)).max() > 16 and not unlike_face(np.stack(faces)).any()


def test_a_face_is_judged_by_its_distance_to_the_nearest_view_of_a_head():
    """The views are made by the renderer's rotations, the distances by linear least squares."""
    head = np.column_stack([TEMPLATE_112 - TEMPLATE_112[:2].mean(axis=0), [0, 0, 18, 4.5, 4.5]])
    poses = [Pose(yaw, pitch).matrix() for yaw in range(-90, 91, 15) for pitch in range(-40, 41, 20)]
    views = [(head @ turn.T)[:, :2] for turn in poses]
    moved = TEMPLATE_112 + np.random.default_rng(3).uniform(-17, 17, (150, 5, 2))
    moved = moved[misfit_px(moved) < 13]
    away = np.array([min(np.sqrt(_residual(face, view) / 5) for view in views) for face in moved])
    assert unlike_face(moved).tolist() == (away > 8).tolist()
    assert ((away > 7.5) & (away < 8)).any() and ((away > 8) & (away < 8.5)).any()


def test_turned_faces_with_left_and_right_exchanged_are_no_profiles():
    """Seen from the side they look like the other side; up to 60 degrees they are too far from any face."""
    exchanged = WRONG_ORDERS["left and right are exchanged"]
    for yaw in (0, 30, 60):
        assert unlike_face(exchanged(heads(400, yaw))).mean() > 0.95


def test_from_five_percent_on_a_line_tells_how_many():
    mixed = np.concatenate([heads(900, 10), WRONG_ORDERS["the nose comes first"](heads(100, 10))])
    said = "x.csv: 10% of the landmarks are unlike a face in template order, whatever its pose"
    assert require_faces("x.csv", mixed) == [said]
    assert require_faces("x.csv", mixed[:950])[0].startswith("x.csv: 5% of")  # 50 of 950
    assert require_faces("x.csv", mixed[:947]) == require_faces("x.csv", np.zeros((0, 5, 2))) == []  # 47 of 947


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


def test_millions_of_rows_are_judged_by_some_that_are_spread_evenly():
    """All of them as float64 would take 240 MB."""
    points = np.broadcast_to(TEMPLATE_112.astype(np.float32), (3_000_000, 5, 2))
    tracemalloc.start()
    try:
        assert require_faces("x.csv", points) == []
        assert tracemalloc.get_traced_memory()[1] < 48e6
    finally:
        tracemalloc.stop()
    first = np.repeat(TEMPLATE_112[None, [1, 0, 2, 4, 3]], 60_000, axis=0)
    right = np.repeat(TEMPLATE_112[None], 40_000, axis=0)
    for wrong in ([first, right], [right, first]):
        with pytest.raises(DataError, match=r"60% of the landmarks.*left and right are exchanged"):
            require_faces("x.csv", np.concatenate(wrong))


@pytest.mark.skipif(not SHARED.exists(), reason="the shared photographs are not here")
def test_real_photographs_pass_and_in_a_wrong_order_do_not():
    points = read_landmarks(SHARED).points
    assert require_faces("x.csv", points) == []
    assert not unlike_face(points).any()
    assert all(require_faces("x.csv", points[row : row + 1]) == [] for row in range(0, len(points), 20))
    for looks, reorder in WRONG_ORDERS.items():
        with pytest.raises(DataError, match=looks.replace(".", "[.]")):
            require_faces("x.csv", reorder(points))
