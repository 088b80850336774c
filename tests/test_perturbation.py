"""The perturbation of landmarks, by hand and by its published strength."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.alignment import (
    TEMPLATE_112,
    estimate_similarity,
    jitter_landmarks,
    perturb_landmarks,
)
from tests.helpers.faces import face_landmarks


def test_perturbation_in_source_pixels_by_hand():
    moved = perturb_landmarks(TEMPLATE_112, 3, "source", np.random.default_rng([1, 2, 3]))
    draws = np.random.default_rng([1, 2, 3]).uniform(-3, 3, (5, 2))
    np.testing.assert_array_equal(moved, TEMPLATE_112 + draws)


def test_perturbation_in_template_pixels_by_hand():
    """A face twice the template's size, turned a quarter: the offset (u, v) becomes (-2v, 2u)."""
    points = np.stack([-2 * TEMPLATE_112[:, 1] + 300, 2 * TEMPLATE_112[:, 0] + 10], axis=1)
    moved = perturb_landmarks(points, 3, "template", np.random.default_rng(5))
    u, v = np.random.default_rng(5).uniform(-3, 3, (5, 2)).T
    np.testing.assert_allclose(moved, points + np.stack([-2 * v, 2 * u], axis=1), atol=1e-10)


@settings(deadline=None)
@given(face_landmarks, st.integers(0, 2**32))
def test_template_perturbation_looks_the_same_on_every_face(points, seed):
    """Seen in the crop, the landmarks have moved by the drawn offsets."""
    moved = perturb_landmarks(points, 3, "template", np.random.default_rng(seed))
    matrix = estimate_similarity(points, TEMPLATE_112)
    in_crop = (moved - points) @ matrix[:, :2].T
    np.testing.assert_allclose(in_crop, np.random.default_rng(seed).uniform(-3, 3, (5, 2)), atol=1e-8)


def test_jitter_fills_its_interval():
    """Mean 0, variance p^2 / 3, never beyond p; the ten coordinates are independent draws."""
    rng = np.random.default_rng(0)
    offsets = np.stack([jitter_landmarks(np.zeros((5, 2)), 3.0, rng) for _ in range(4000)])
    assert np.abs(offsets).max() <= 3
    np.testing.assert_allclose(offsets.mean(0), 0, atol=0.12)
    np.testing.assert_allclose(offsets.var(0), 3, atol=0.15)
    correlation = np.corrcoef(offsets.reshape(4000, 10).T) - np.eye(10)
    assert np.abs(correlation).max() < 0.08


@pytest.mark.parametrize(
    ("eye_distance_px", "rotation_deg", "scale_percent"), [(18, 3.8, 6.5), (35, 1.9, 3.3), (176, 0.4, 0.7)]
)
def test_perturbation_has_the_published_strength(eye_distance_px, rotation_deg, scale_percent):
    """Spread of rotation and scale that p = 3 source pixels cause; to first order p / sqrt(3) / the points' norm."""
    points = TEMPLATE_112 * eye_distance_px / 35.24
    true = estimate_similarity(points, TEMPLATE_112)
    rng = np.random.default_rng(0)
    factors = []
    for _ in range(4000):
        z = estimate_similarity(perturb_landmarks(points, 3, "source", rng), TEMPLATE_112)
        factors.append(complex(z[0, 0], z[1, 0]) / true[0, 0])
    assert np.degrees(np.angle(factors)).std() == pytest.approx(rotation_deg, abs=0.1)
    assert np.abs(factors).std() * 100 == pytest.approx(scale_percent, abs=0.25)


def test_zero_radius_moves_nothing():
    for unit in ("source", "template"):
        np.testing.assert_array_equal(perturb_landmarks(TEMPLATE_112, 0, unit, np.random.default_rng(0)), TEMPLATE_112)


def test_unknown_unit_is_refused():
    with pytest.raises(ValueError, match="unit"):
        perturb_landmarks(TEMPLATE_112, 3, "percent", np.random.default_rng(0))
