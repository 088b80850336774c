"""Alignment: landmarks -> similarity transform -> 112x112 crop, and the perturbation that misaligns it.

Convention of this file: points are (x, y) in pixels, pixel centres at integers, in template order (eye on the
image's left, eye on its right, nose tip, mouth corner left, mouth corner right); images are (H, W, C) uint8.
No function writes to its arguments.
"""

import cmath
import math

import cv2
import numpy as np

CROP_SIZE_PX = 112

TEMPLATE_112 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.729904, 92.2041]],
    dtype=np.float64,
)
"""Where the five landmarks lie in a 112x112 ArcFace crop."""
TEMPLATE_112.setflags(write=False)

MIN_SPAN_PX = 2.0
"""Landmarks closer together than this are no face; fractions of the image are."""

BORDERS = {"black": cv2.BORDER_CONSTANT, "replicate": cv2.BORDER_REPLICATE, "reflect": cv2.BORDER_REFLECT_101}
"""What a crop shows outside the image: nothing, the nearest pixel, or the image mirrored about its edge pixel."""

_TINY = 1e-12
_OPENCV_5 = int(cv2.__version__.split(".")[0]) >= 5
_RGBA_LIMIT = 3 * 150_000
"""Array size up to which adding the channel costs less than it saves."""


class AlignmentError(Exception):
    """Signal landmarks that define no crop; `str()` is the reason."""


def template_landmarks(size_px: int) -> np.ndarray:
    """Return the landmarks (5, 2) of a square crop that is already aligned.

    The template is scaled by size / 112 about the corner pixel, as the tools that write such crops do.
    """
    return TEMPLATE_112 * (size_px / CROP_SIZE_PX)


def estimate_similarity(src_K2: np.ndarray, dst_K2: np.ndarray) -> np.ndarray:
    """Find rotation + scale + shift taking src to dst with the least squared error; no reflection (Umeyama 1991).

    With points as complex numbers x + iy, a and b about their means, the best map is p -> z p + shift with
    z = sum(conj(a) b) / sum(conj(a) a): its modulus is the scale, its argument the angle.
    Returns: (2, 3) float64, source -> destination.
    Raises: AlignmentError where no such transform exists: values that are not finite, points that coincide.
    """
    src, dst = _as_complex(src_K2), _as_complex(dst_K2)
    src_mean, dst_mean = sum(src) / len(src), sum(dst) / len(dst)
    a, b = [p - src_mean for p in src], [p - dst_mean for p in dst]
    spread = sum(map(_squared, a))
    if not math.isfinite(spread) or not cmath.isfinite(dst_mean):
        raise AlignmentError("landmarks are not finite numbers")
    if spread <= _TINY * max(1.0, _squared(src_mean)):
        raise AlignmentError("landmarks coincide")
    z = sum(p.conjugate() * q for p, q in zip(a, b, strict=True)) / spread
    if _squared(z) * spread <= _TINY * sum(map(_squared, b)):
        raise AlignmentError("landmarks do not resemble a face")
    shift = dst_mean - z * src_mean
    return np.array([[z.real, -z.imag, shift.real], [z.imag, z.real, shift.imag]])


def _as_complex(points_K2: np.ndarray) -> list[complex]:
    """Return Python's numbers: for a handful of points they are faster than numpy's."""
    return np.ascontiguousarray(points_K2, np.float64).view(np.complex128)[:, 0].tolist()


def _squared(z: complex) -> float:
    return z.real * z.real + z.imag * z.imag


def warp(
    image: np.ndarray,
    matrix_23: np.ndarray,
    size_px: int = CROP_SIZE_PX,
    out: np.ndarray | None = None,
    border: str = "black",
) -> np.ndarray:
    """Resample an image into its (size, size, C) crop: bilinear; `border` (BORDERS) is what lies outside the image.

    `matrix_23` maps source to crop (cv2 inverts it). `out`, when given, is filled and returned.
    """
    if _warps_faster_as_rgba(image):
        out = np.empty((size_px, size_px, 3), np.uint8) if out is None else out
        return _warp_rgba(cv2.cvtColor(image, cv2.COLOR_RGB2RGBA), matrix_23, out, border)
    return cv2.warpAffine(
        image, matrix_23, (size_px, size_px), dst=out, flags=cv2.INTER_LINEAR, borderMode=BORDERS[border]
    )


def warp_both(
    image: np.ndarray, matrices: tuple[np.ndarray, np.ndarray], out: np.ndarray, border: str = "black"
) -> None:
    """Resample one RGB image twice, into the (2, size, size, 3) array `out`; `border` is that of the second crop."""
    borders = "black", border
    if _warps_faster_as_rgba(image):
        rgba = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
        for matrix_23, crop, outside in zip(matrices, out, borders, strict=True):
            _warp_rgba(rgba, matrix_23, crop, outside)
    else:
        for matrix_23, crop, outside in zip(matrices, out, borders, strict=True):
            warp(image, matrix_23, len(crop), crop, outside)


def _warps_faster_as_rgba(image: np.ndarray) -> bool:
    """Say whether a fourth channel pays: OpenCV 5 warps four twice as fast as three, with the same result."""
    return _OPENCV_5 and image.ndim == 3 and image.shape[2] == 3 and image.size <= _RGBA_LIMIT


def _warp_rgba(rgba: np.ndarray, matrix_23: np.ndarray, out: np.ndarray, border: str) -> np.ndarray:
    crop = cv2.warpAffine(rgba, matrix_23, out.shape[:2], flags=cv2.INTER_LINEAR, borderMode=BORDERS[border])
    return cv2.cvtColor(crop, cv2.COLOR_RGBA2RGB, dst=out)


def outside_share(matrix_23: np.ndarray, shape: tuple[int, ...], size_px: int = CROP_SIZE_PX) -> float:
    """Return the share of a crop's pixels whose source lies outside an image of this (height, width, ...).

    From geometry alone: a pixel reaches half its width around its centre, so the image ends at -0.5 and at n - 0.5.
    """
    back = cv2.invertAffineTransform(matrix_23).tolist()
    last, highs = size_px - 1, (shape[1] - 0.5, shape[0] - 0.5)
    low = [min(0, a * last) + min(0, b * last) + c for a, b, c in back]
    top = [max(0, a * last) + max(0, b * last) + c for a, b, c in back]
    if min(low) >= -0.5 and all(t <= high for t, high in zip(top, highs, strict=True)):
        return 0.0
    at = np.arange(size_px)
    x, y = (a * at + (b * at[:, None] + c) for a, b, c in back)
    return float(np.mean((x < -0.5) | (x > highs[0]) | (y < -0.5) | (y > highs[1])))


def align(image: np.ndarray, landmarks_52: np.ndarray, size_px: int = CROP_SIZE_PX) -> np.ndarray:
    """Cut the aligned (size, size, C) crop of a face out of its image."""
    return warp(image, estimate_similarity(landmarks_52, template_landmarks(size_px)), size_px)


def landmarks_of_crop(image: np.ndarray) -> np.ndarray:
    """Return the landmarks of a crop that is aligned already: the template at its size."""
    height, width = image.shape[:2]
    if height != width:
        raise AlignmentError(f"an aligned crop is square, this one has {width}x{height} pixels")
    return template_landmarks(width)


def box_landmarks(boxes_N4: np.ndarray, scale: float) -> np.ndarray:
    """Return landmarks (N, 5, 2) float32 whose crop is the upright square about each box (x, y, width, height).

    The side of the square is `scale` times the longer side of the box; nothing in it is aligned to the face.
    """
    x, y, width, height = np.asarray(boxes_N4, np.float64).T
    side = scale * np.maximum(width, height)
    corner_N2 = np.stack([x + (width - side) / 2, y + (height - side) / 2], 1)
    within = (TEMPLATE_112 + 0.5) / CROP_SIZE_PX
    return (corner_N2[:, None] + within * side[:, None, None] - 0.5).astype(np.float32)


def checked_landmarks(landmarks_52: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Return the landmarks as float64 if they and the image have a rectangle in common and they are pixels."""
    landmarks = np.array(landmarks_52, np.float64)
    x, y = landmarks.T.tolist()
    if 0 < max(max(x) - min(x), max(y) - min(y)) < MIN_SPAN_PX:
        raise AlignmentError(f"landmarks span less than {MIN_SPAN_PX:g} px; are they fractions of the image?")
    height, width = image.shape[:2]
    if max(x) < 0 or max(y) < 0 or min(x) > width - 1 or min(y) > height - 1:
        raise AlignmentError(f"all landmarks lie outside the {width}x{height} image")
    return landmarks


def jitter_landmarks(points_K2: np.ndarray, radius_px: float, rng: np.random.Generator) -> np.ndarray:
    """Return the points, each coordinate moved by its own draw from U[-radius, radius]."""
    return points_K2 + rng.uniform(-radius_px, radius_px, size=np.shape(points_K2))


def perturb_landmarks(points_52: np.ndarray, radius_px: float, unit: str, rng: np.random.Generator) -> np.ndarray:
    """Return landmarks (5, 2) float64, moved at random in pixels of the source image or of the template."""
    return move_landmarks(points_52, jitter_landmarks(np.zeros(np.shape(points_52)), radius_px, rng), unit)


def move_landmarks(points_52: np.ndarray, offsets_52: np.ndarray, unit: str) -> np.ndarray:
    """Return landmarks (5, 2) float64, moved by offsets in pixels of the source image or of the template.

    Unit "source" is the paper's rule. With "template" the offset counts in pixels of the 112x112 template and is
    mapped back through the inverse linear part of the sample's true alignment, so that every face, whatever its
    size, is misaligned alike.
    """
    points = np.asarray(points_52, dtype=np.float64)
    if unit == "source":
        return points + offsets_52
    if unit != "template":
        raise ValueError(f"unit must be 'source' or 'template', not {unit!r}")
    linear_22 = estimate_similarity(points, TEMPLATE_112)[:, :2]
    return points + offsets_52 @ np.linalg.inv(linear_22).T
