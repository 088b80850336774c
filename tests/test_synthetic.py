"""Rendered faces: geometry by hand, landmarks where they are painted, light from where it is."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.alignment import TEMPLATE_112, align, estimate_similarity
from synthetic.canvas import Canvas, ellipse
from synthetic.geometry import (
    RELIEF_PX,
    Camera,
    Pose,
    Shape,
    cast,
    directions,
    head_axes,
    nose_tip_y,
    plane_to_st,
    skull_relief,
)
from synthetic.identity import draw_looks
from synthetic.render import Light, Person, landmark_st
from synthetic.texture import Expression, Texture, eye_centres, mouth_corners
from tests.helpers.rendering import frontal, person, rendered

PURE = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))


# geometry


def test_the_pose_turns_the_way_it_says():
    nose, top = np.array([0, 0, 1.0]), np.array([0, -1.0, 0])
    np.testing.assert_allclose(Pose(yaw=90).matrix() @ nose, [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(Pose(yaw=30).matrix() @ nose, [0.5, 0, np.sqrt(0.75)], atol=1e-12)
    np.testing.assert_allclose(Pose(pitch=30).matrix() @ nose, [0, -0.5, np.sqrt(0.75)], atol=1e-12)
    np.testing.assert_allclose(Pose(roll=90).matrix() @ top, [1, 0, 0], atol=1e-12)


def test_projection_by_hand():
    camera = Camera(Pose(yaw=90), 50.0, (80.0, 70.0), 160)
    np.testing.assert_allclose(camera.project(np.array([[0.2, 0.4, 0.6]])), [[80 + 50 * 0.6, 70 + 50 * 0.4, -0.2]])


@given(st.floats(-0.45, 0.45), st.floats(-0.6, 0.6))
@settings(max_examples=50, deadline=None)
def test_map_coordinates_come_back(x, y):
    axes = np.array([0.7, 1.0, 0.9])
    found = directions(plane_to_st(np.array([[x, y]]), axes))[0]
    np.testing.assert_allclose(found[:2] * axes[:2], [x, y], atol=1e-9)
    assert np.linalg.norm(found) == pytest.approx(1)


@pytest.mark.parametrize("pose", [Pose(), Pose(40, 0, 0), Pose(-65, 20, 15)])
def test_rays_meet_an_ellipsoid_where_the_quadratic_says(pose):
    axes = np.array([0.7, 1.0, 0.85])
    camera = frontal(pose)
    surface = cast(Shape(axes, np.ones((RELIEF_PX, RELIEF_PX), np.float32)), camera)
    pixels = np.arange(80) * 2 + 0.5
    u, v = np.meshgrid((pixels - 80) / 58, (pixels - 79) / 58)
    m = np.diag(1 / axes) @ pose.matrix().T
    base, ray = m[:, :2] @ np.stack([u.ravel(), v.ravel()]), m[:, 2]
    a, b, c = ray @ ray, ray @ base, (base * base).sum(0) - 1
    under = b * b - a * c
    depth = np.where(under > 0, (-b + np.sqrt(np.maximum(under, 0))) / a, np.nan).reshape(80, 80)
    well_inside = (under > 0.05).reshape(80, 80)
    np.testing.assert_allclose(surface.depth[well_inside], depth[well_inside], atol=2e-3)
    assert np.array_equal(
        surface.inside[np.abs(under.reshape(80, 80)) > 0.03] > 0,
        (under > 0).reshape(80, 80)[np.abs(under.reshape(80, 80)) > 0.03],
    )


def test_yaw_foreshortens_the_eye_distance_by_its_cosine():
    who = person(2)
    straight, turned = (rendered(who, camera=frontal(Pose(yaw=yaw))).landmarks for yaw in (0, 60))
    assert straight[1, 1] == pytest.approx(straight[0, 1], abs=0.02)
    assert turned[1, 0] - turned[0, 0] == pytest.approx(0.5 * (straight[1, 0] - straight[0, 0]), rel=0.01)
    assert turned[2, 0] - turned[:2, 0].mean() > 8  # the nose stands off the face and moves with the turn


def test_roll_turns_the_landmarks_about_the_centre():
    who = person(4)
    straight, rolled = (rendered(who, camera=frontal(Pose(roll=roll))).landmarks - (80, 79) for roll in (0, 90))
    np.testing.assert_allclose(rolled, straight @ [[0, 1], [-1, 0]], atol=1e-6)


# landmarks


class Marked(Texture):
    """A black face with a pure dot on every landmark."""

    def paint(self, held: Expression) -> np.ndarray:
        canvas = Canvas(np.zeros_like(self.base), self.axes)
        points = [*eye_centres(self.who), (0.0, nose_tip_y(self.who)), *mouth_corners(self.who, held)]
        for point, colour in zip(points, PURE, strict=True):
            canvas.fill(ellipse(tuple(point), (0.022, 0.022)), colour)
        return canvas.pixels


def dot_centre(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    on, off = [c for c in range(3) if colour[c]], [c for c in range(3) if not colour[c]]
    weight = np.clip(image[..., on].min(-1) - image[..., off].max(-1) - 60, 0, None)
    rows, columns = np.indices(weight.shape)
    return np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()


def marked_image(number: int, pose: Pose, held: Expression):
    who = person(number)
    who.texture = Marked(who.who)
    found = rendered(who, camera=frontal(pose), held=held, light=Light(ambient=1.0))
    image = found.image * (found.face > 0.5)[..., None]
    return image, found


@pytest.mark.parametrize("number", [1, 5, 9])
@pytest.mark.parametrize(
    ("pose", "held"),
    [
        (Pose(), Expression()),
        (Pose(yaw=22), Expression(smile=0.8)),
        (Pose(yaw=-18, pitch=12, roll=-14), Expression(mouth_open=0.9)),
        (Pose(pitch=-15, roll=25), Expression(smile=-0.3)),
    ],
)
def test_landmarks_lie_where_they_are_painted(number, pose, held):
    image, found = marked_image(number, pose, held)
    limits = (1.0, 1.0, 2.0, 1.0, 1.0)  # under the tip the nose falls away: less than half of its dot is seen
    for landmark, colour, limit in zip(found.landmarks, PURE, limits, strict=True):
        assert np.linalg.norm(dot_centre(image, colour) - landmark) < limit
    wanted = landmark_st(person(number).who, held)
    for (x, y), st_wanted, limit in zip(found.landmarks, wanted, limits, strict=True):
        cell = np.float32([[(x - 0.5) / 2]]), np.float32([[(y - 0.5) / 2]])
        assert np.abs(cv2.remap(found.surface.st, *cell, cv2.INTER_LINEAR)[0, 0] - st_wanted).max() < 0.025 * limit**1.5


def test_a_hidden_landmark_keeps_its_place():
    image, found = marked_image(5, Pose(yaw=75), Expression())
    assert not ((image[..., 1] > 120) & (image[..., 0] < 60) & (image[..., 2] < 60)).any()  # right eye is behind
    assert np.isfinite(found.landmarks).all()


def test_alignment_puts_eyes_on_the_template():
    residuals = []
    for number in range(1, 41):
        who = draw_looks(3, number)[0]
        shape = Shape(head_axes(who), skull_relief(who))
        points = frontal().project(shape.surface_points(landmark_st(who, Expression(smile=0.3))))[:, :2]
        matrix = estimate_similarity(points, TEMPLATE_112)
        residuals.append(points @ matrix[:, :2].T + matrix[:, 2] - TEMPLATE_112)
    assert np.abs(np.mean(residuals, 0)).max() < 4.0  # people differ; their mean is near the template
    assert np.linalg.norm(np.array(residuals)[:, :2], axis=-1).max() < 9.0
    image, found = marked_image(1, Pose(yaw=10, roll=20), Expression())
    crop = align(np.clip(image, 0, 255).astype(np.uint8), found.landmarks).astype(np.float64)
    matrix = estimate_similarity(found.landmarks, TEMPLATE_112)
    for point, colour in zip(found.landmarks @ matrix[:, :2].T + matrix[:, 2], PURE, strict=True):
        assert np.linalg.norm(dot_centre(crop, colour) - point) < 1.2


def test_landmarks_are_the_same_in_another_look():
    for number in range(1, 12):
        usual, other = (Person(look) for look in draw_looks(3, number))
        first, second = rendered(usual).landmarks, rendered(other).landmarks
        assert np.abs(first - second).max() < 0.5, number


def test_a_second_look_takes_skin_and_skull_over():
    usual, other = draw_looks(3, 7)
    alone, twin = Person(other), Person(other, Person(usual))
    assert np.array_equal(alone.relief, twin.relief)
    assert np.array_equal(alone.texture.base, twin.texture.base)


# people and light


def test_people_differ_more_than_photographs_of_one():
    same, different = [], []
    for number in range(1, 9):
        images = [
            rendered(person(number + other), held=Expression(smile=smile)).landmarks
            for other, smile in ((0, 0.0), (0, 0.3), (20, 0.0))
        ]
        matrices = [estimate_similarity(points, TEMPLATE_112) for points in images]
        shapes = [p @ m[:, :2].T + m[:, 2] for p, m in zip(images, matrices, strict=True)]
        same.append(np.abs(shapes[0] - shapes[1]).mean())
        different.append(np.abs(shapes[0] - shapes[2]).mean())
    assert np.mean(different) > 2 * np.mean(same)


def test_light_from_the_right_brightens_the_right_cheek():
    who = person(11)
    left, right = (rendered(who, light=Light(azimuth, 0.0, 0.2)).image for azimuth in (-70, 70))
    x, y = rendered(who).landmarks.mean(0)
    cheek = slice(int(y) - 4, int(y) + 5), slice(int(x) + 12, int(x) + 20)
    assert right[cheek].mean() > 1.5 * left[cheek].mean()


def test_landmark_coordinates_follow_the_smile():
    who = person(2).who
    calm, smiling = (landmark_st(who, Expression(smile=smile)) for smile in (0.0, 1.0))
    assert np.array_equal(calm[:3], smiling[:3])
    assert smiling[3, 0] < calm[3, 0]
    assert smiling[4, 1] < calm[4, 1]
