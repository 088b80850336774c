"""Alignment: the similarity estimate and the warp, against independent oracles."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from skimage.transform import SimilarityTransform
from skimage.transform import warp as skimage_warp

from data.alignment import (
    BORDERS,
    TEMPLATE_112,
    AlignmentError,
    align,
    estimate_similarity,
    jitter_landmarks,
    outside_share,
    perturb_landmarks,
    template_landmarks,
    warp,
    warp_both,
)
from data.misalignment import outside_shares_of_aligned
from tests.helpers.faces import coordinates, face_landmarks
from utils.config.train_aikd import StudentCropConfig


def skimage_estimate(src, dst):
    if hasattr(SimilarityTransform, "from_estimate"):
        return SimilarityTransform.from_estimate(src, dst).params[:2]
    transform = SimilarityTransform()
    transform.estimate(src, dst)
    return transform.params[:2]


def skimage_crop(image, matrix_23):
    inverse = SimilarityTransform(matrix=np.vstack([matrix_23, [0, 0, 1]])).inverse
    return skimage_warp(image.astype(np.float64), inverse, output_shape=(112, 112), order=1, preserve_range=True)


def photograph(noise_sd, seed=0):
    rng = np.random.default_rng(seed)
    image = cv2.GaussianBlur(rng.uniform(0, 255, (240, 200, 3)), (0, 0), 4)
    image = (image - image.min()) / np.ptp(image) * 255
    return np.clip(image + rng.normal(0, noise_sd, image.shape), 0, 255).astype(np.uint8)


# ---------------------------------------------------------------- estimate


@settings(deadline=None)
@given(face_landmarks)
def test_estimate_agrees_with_scikit_image(points):
    np.testing.assert_allclose(
        estimate_similarity(points, TEMPLATE_112), skimage_estimate(points, TEMPLATE_112), rtol=1e-4, atol=1e-4
    )


@settings(deadline=None)
@given(arrays(np.float64, (7, 2), elements=coordinates), arrays(np.float64, (7, 2), elements=coordinates))
def test_estimate_agrees_with_scikit_image_on_any_points(src, dst):
    a, b = src - src.mean(0), dst - dst.mean(0)
    rotation, mirror = np.linalg.svd(b.T @ a)[1], np.linalg.det(b.T @ a) < 0
    if a.std() < 1 or b.std() < 1 or (rotation[1] < 1 or mirror):  # degenerate, or several solutions
        return
    np.testing.assert_allclose(estimate_similarity(src, dst), skimage_estimate(src, dst), rtol=1e-4, atol=1e-4)


@settings(deadline=None)
@given(face_landmarks)
def test_estimate_is_the_least_squares_solution(points):
    """Solve the four linear normal equations by hand-written design matrix."""
    x, y = points.T
    one, zero = np.ones(5), np.zeros(5)
    design = np.vstack([np.c_[x, -y, one, zero], np.c_[y, x, zero, one]])
    a, b, shift_x, shift_y = np.linalg.lstsq(design, TEMPLATE_112.T.ravel(), rcond=None)[0]
    np.testing.assert_allclose(
        estimate_similarity(points, TEMPLATE_112), [[a, -b, shift_x], [b, a, shift_y]], rtol=1e-6, atol=1e-6
    )


def test_estimate_of_a_known_transform():
    """Quarter turn, doubled, shifted: (x, y) -> (-2y + 10, 2x + 20)."""
    src = np.array([[0, 0], [4, 0], [0, 3], [1, 1]])
    dst = np.array([[10, 20], [10, 28], [4, 20], [8, 22]])
    np.testing.assert_allclose(estimate_similarity(src, dst), [[0, -2, 10], [2, 0, 20]], atol=1e-12)


def test_estimate_goes_there_and_back():
    points = TEMPLATE_112 * 1.7 + (11, -6)
    there = estimate_similarity(points, TEMPLATE_112)
    back = estimate_similarity(TEMPLATE_112, points)
    product = np.vstack([there, [0, 0, 1]]) @ np.vstack([back, [0, 0, 1]])
    np.testing.assert_allclose(product, np.eye(3), atol=1e-12)


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        (np.full((5, 2), 40.0), "coincide"),
        (np.full((5, 2), 1e6), "coincide"),
        (np.zeros((5, 2)), "coincide"),
        (np.where(np.arange(10).reshape(5, 2) == 3, np.nan, TEMPLATE_112), "finite"),
        (np.where(np.arange(10).reshape(5, 2) == 3, np.inf, TEMPLATE_112), "finite"),
        (np.full((5, 2), np.nan), "finite"),
    ],
)
def test_degenerate_landmarks_are_refused(points, reason):
    with np.errstate(invalid="ignore"), pytest.raises(AlignmentError, match=reason):
        estimate_similarity(points, TEMPLATE_112)


def test_points_that_no_rotation_brings_nearer_are_refused():
    src = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    dst = np.array([[1.0, 0], [-1, 0], [0, -1], [0, 1]])  # mirrored: the best scale is zero
    with pytest.raises(AlignmentError, match="resemble"):
        estimate_similarity(src, dst)


# ---------------------------------------------------------------- warp


@pytest.mark.parametrize("noise_sd", [0, 20])
@pytest.mark.parametrize("scale", [0.7, 1.3, 2.4])
def test_crops_agree_with_scikit_image(noise_sd, scale):
    rng = np.random.default_rng(int(scale * 10))
    image = photograph(noise_sd)
    for _ in range(5):
        points = TEMPLATE_112 * scale + rng.uniform(-30, 20, 2) + rng.uniform(-4, 4, (5, 2))
        matrix = estimate_similarity(points, TEMPLATE_112)
        difference = np.abs(align(image, points) - np.rint(skimage_crop(image, matrix)))
        assert difference.max() <= 6
        assert difference.mean() <= 0.3


def test_warp_shifts_by_whole_pixels_exactly():
    image = photograph(20)
    shift = np.array([[1.0, 0, -30], [0, 1, -50]])
    np.testing.assert_array_equal(warp(image, shift), image[50:162, 30:142])


def test_warp_interpolates_between_pixel_centres():
    """Half a pixel to the right: the mean of two neighbours."""
    image = np.zeros((112, 112, 3), np.uint8)
    image[:, 51] = 100
    crop = warp(image, np.array([[1.0, 0, 0.5], [0, 1, 0]]))
    assert crop[60, 50:54, 0].tolist() == [0, 50, 50, 0]


def test_warp_is_black_outside():
    crop = warp(np.full((50, 50, 3), 200, np.uint8), np.array([[1.0, 0, 31], [0, 1, 31]]))
    assert crop[31:81, 31:81].min() == 200
    crop[31:81, 31:81] = 0
    assert crop.max() == 0


@pytest.mark.parametrize("size", [(50, 50), (500, 500)])  # as RGBA and as RGB
@pytest.mark.parametrize("border", BORDERS)
def test_what_lies_outside_the_image_is_shown_as_asked_for(size, border):
    """Shifted by whole pixels: 20 columns and 30 rows of the crop lie outside, at every kind of border."""
    image = np.random.default_rng(0).integers(1, 256, (*size, 3), dtype=np.uint8)
    mode = {"black": "constant", "replicate": "edge", "reflect": "reflect"}[border]
    want = np.pad(image, ((30, 0), (20, 0), (0, 0)), mode=mode)[:64, :64]
    shift = np.array([[1.0, 0, 20], [0, 1, 30]])
    np.testing.assert_array_equal(warp(image, shift, size_px=64, border=border), want)
    both = np.empty((2, 64, 64, 3), np.uint8)
    warp_both(image, (shift, shift), both, border)
    np.testing.assert_array_equal(both[1], want)
    np.testing.assert_array_equal(both[0], warp(image, shift, size_px=64))  # the aligned crop stays black outside


def test_share_outside_by_hand():
    """Half a pixel is still the image: from -0.5 to n - 0.5."""
    shares = {
        (0, 0): 0, (0.5, 0): 0, (0.6, 0): 1 / 112, (-0.5, -0.5): 0, (3, 0): 3 / 112, (-3, 0): 3 / 112, (0, 28): 0.25,
        (56, 56): 0.75, (200, 0): 1,
    }  # fmt: skip
    for (x, y), share in shares.items():
        shift = np.array([[1.0, 0, x], [0, 1, y]])
        assert outside_share(shift, (112, 112, 3)) == pytest.approx(share, abs=1e-12), (x, y)
    assert outside_share(np.array([[2.0, 0, 0], [0, 2, 0]]), (28, 200)) == 0.5  # rows 0 to 55 show the image's 28
    assert outside_share(np.array([[1.0, 0, -40], [0, 1, -9]]), (150, 130)) == pytest.approx(22 / 112)


def test_share_outside_is_that_of_pixels_whose_nearest_neighbour_is_none_of_the_image():
    rng = np.random.default_rng(2)
    for _ in range(20):
        matrix = estimate_similarity(TEMPLATE_112 + rng.uniform(-8, 8, (5, 2)), TEMPLATE_112)
        white = np.full((120, 100), 255, np.uint8)
        y, x = np.mgrid[:112, :112]
        source = np.stack([x, y, np.ones_like(x)], axis=-1) @ cv2.invertAffineTransform(matrix).T
        shown = cv2.remap(white, *np.rint(source).astype(np.float32).transpose(2, 0, 1), cv2.INTER_NEAREST)
        assert outside_share(matrix, (120, 100, 3)) == pytest.approx(np.mean(shown == 0), abs=1e-12)
        assert (shown == 0).any()


@pytest.mark.parametrize(("radius_px", "mean"), [(3, 0.037), (6, 0.086)])
def test_crops_misaligned_from_aligned_copies_reach_beyond_them(radius_px, mean):
    shares = outside_shares_of_aligned(StudentCropConfig(radius_px=radius_px))
    assert shares.mean() == pytest.approx(mean, abs=0.003) and 0 <= shares.min() < shares.max() < 0.5
    assert (outside_shares_of_aligned(StudentCropConfig(radius_px=0), draws=5) == 0).all()


@pytest.mark.parametrize("size", [(240, 200), (700, 600)])
def test_all_ways_to_warp_give_the_same_crop(size):
    image = cv2.resize(photograph(20), size[::-1])
    first = estimate_similarity(TEMPLATE_112 * 1.3 + 8, TEMPLATE_112)
    second = estimate_similarity(TEMPLATE_112 * 0.9 - 3, TEMPLATE_112)
    plain = [cv2.warpAffine(image, matrix, (112, 112), flags=cv2.INTER_LINEAR) for matrix in (first, second)]
    both = np.full((2, 112, 112, 3), 77, np.uint8)
    warp_both(image, (first, second), both)
    np.testing.assert_array_equal(both, plain)
    out = np.full((112, 112, 3), 77, np.uint8)
    assert np.shares_memory(warp(image, first, out=out), out)
    np.testing.assert_array_equal(out, plain[0])


def test_template_of_another_size():
    """A 224 crop cut at twice the template aligns to the 112 crop of the same face."""
    assert template_landmarks(112).tolist() == TEMPLATE_112.tolist()
    matrix = estimate_similarity(template_landmarks(224), TEMPLATE_112)
    np.testing.assert_allclose(matrix, [[0.5, 0, 0], [0, 0.5, 0]], atol=1e-12)
    image = photograph(0)[:112, :112]
    np.testing.assert_array_equal(align(image, template_landmarks(112)), image)


def test_template_is_the_published_one_and_read_only():
    assert TEMPLATE_112[0].tolist() == [38.2946, 51.6963]
    assert TEMPLATE_112[4].tolist() == [70.729904, 92.2041]
    with pytest.raises(ValueError):
        TEMPLATE_112[0, 0] = 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arguments_are_never_written_to(dtype):
    """The released code moved the stored landmarks themselves (docs/fidelity.md, row 7)."""
    points = (TEMPLATE_112 * 1.4).astype(dtype)
    image = photograph(10)
    kept_points, kept_image = points.copy(), image.copy()
    rng = np.random.default_rng(0)
    for unit in ("source", "template"):
        for _ in range(3):
            moved = perturb_landmarks(points, 3, unit, rng)
            assert not np.shares_memory(moved, points)
    align(image, points)
    points.setflags(write=False)
    image.setflags(write=False)
    align(image, points)
    jitter_landmarks(points, 1, rng)
    np.testing.assert_array_equal(points, kept_points)
    np.testing.assert_array_equal(image, kept_image)


def test_integer_and_list_landmarks_work():
    points = [[60, 80], [100, 80], [80, 105], [64, 130], [96, 130]]
    expected = estimate_similarity(np.array(points, np.float64), TEMPLATE_112)
    np.testing.assert_array_equal(estimate_similarity(points, TEMPLATE_112), expected)
    moved = perturb_landmarks(points, 2, "source", np.random.default_rng(0))
    assert moved.shape == (5, 2)
    assert moved.dtype == np.float64
