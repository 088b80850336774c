"""Alignment: landmarks -> similarity transform -> 112x112 crop, and the perturbation that misaligns it.

Convention of this file: points are (x, y) in pixels, pixel centres at integers, in template order (eye on the
image's left, eye on its right, nose tip, mouth corner left, mouth corner right); images are (H, W, C) uint8.
No function writes to its arguments.
"""

import cv2
import numpy as np

CROP_SIZE_PX = 112

TEMPLATE_112 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.729904, 92.2041]],
    dtype=np.float64,
)
"""Where the five landmarks lie in a 112x112 ArcFace crop."""
TEMPLATE_112.setflags(write=False)


class AlignmentError(Exception):
    """Signal landmarks that define no crop; `str()` is the reason."""


def template_landmarks(size_px: int) -> np.ndarray:
    """Return the landmarks (5, 2) of a square crop that is already aligned.

    The template is scaled by size / 112 about the corner pixel, as the tools that write such crops do.
    """
    return TEMPLATE_112 * (size_px / CROP_SIZE_PX)


def estimate_similarity(src_K2: np.ndarray, dst_K2: np.ndarray) -> np.ndarray:
    """Find rotation + scale + shift taking src to dst with the least squared error; no reflection (Umeyama 1991).

    With points as complex numbers about their means, the best factor is z = <src, dst> / <src, src>.
    Returns: (2, 3) float64, source -> destination.
    Raises: AlignmentError when no such transform exists: values that are not finite, points that coincide.
    """
    src = np.asarray(src_K2, dtype=np.float64)
    dst = np.asarray(dst_K2, dtype=np.float64)
    src_mean, dst_mean = src.mean(axis=0), dst.mean(axis=0)
    a, b = src - src_mean, dst - dst_mean
    spread = float((a * a).sum())
    if not np.isfinite(spread) or not np.isfinite(dst_mean).all():
        raise AlignmentError("landmarks are not finite numbers")
    if spread <= 1e-12 * max(1.0, float(src_mean @ src_mean)):
        raise AlignmentError("landmarks coincide")
    real = float((a * b).sum()) / spread
    imag = float(a[:, 0] @ b[:, 1] - a[:, 1] @ b[:, 0]) / spread
    if real * real + imag * imag <= 1e-12 * float((b * b).sum()) / spread:
        raise AlignmentError("landmarks do not resemble a face")
    return np.array(
        [
            [real, -imag, dst_mean[0] - real * src_mean[0] + imag * src_mean[1]],
            [imag, real, dst_mean[1] - imag * src_mean[0] - real * src_mean[1]],
        ]
    )


def warp(image: np.ndarray, matrix_23: np.ndarray, size_px: int = CROP_SIZE_PX, out: np.ndarray | None = None):
    """Resample image into a (size, size, C) crop: bilinear, black outside the image.

    `matrix_23` maps source to crop; cv2 inverts it. `out`, when given, is filled and returned.
    """
    return cv2.warpAffine(
        image, matrix_23, (size_px, size_px), dst=out, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
    )


def align(image: np.ndarray, landmarks_52: np.ndarray, size_px: int = CROP_SIZE_PX) -> np.ndarray:
    """Cut the aligned (size, size, C) crop of a face out of its image."""
    return warp(image, estimate_similarity(landmarks_52, template_landmarks(size_px)), size_px)


def jitter_landmarks(points_K2: np.ndarray, radius_px: float, rng: np.random.Generator) -> np.ndarray:
    """Return the points, each coordinate moved by its own draw from U[-radius, radius]."""
    return points_K2 + rng.uniform(-radius_px, radius_px, size=np.shape(points_K2))


def perturb_landmarks(points_52: np.ndarray, radius_px: float, unit: str, rng: np.random.Generator) -> np.ndarray:
    """Return landmarks (5, 2) float64, moved at random in pixels of the source image or of the template.

    Unit "source" is the paper's rule. With "template" the offset is drawn in pixels of the 112x112 template and
    mapped back through the inverse linear part of the sample's true alignment, so that every face, whatever its
    size, is misaligned alike.
    """
    points = np.asarray(points_52, dtype=np.float64)
    if unit == "source":
        return jitter_landmarks(points, radius_px, rng)
    if unit != "template":
        raise ValueError(f"unit must be 'source' or 'template', not {unit!r}")
    linear_22 = estimate_similarity(points, TEMPLATE_112)[:, :2]
    offsets = jitter_landmarks(np.zeros_like(points), radius_px, rng)
    return points + offsets @ np.linalg.inv(linear_22).T
