"""Tell whether landmarks can be faces in template order; a wrong order or unit gives crops, but not of faces."""

import numpy as np

from data.alignment import MIN_SPAN_PX, TEMPLATE_112
from utils.errors import DataError

MISFIT_LIMIT_PX = 13.0
"""misfit_px above this is no face in template order, or nearly a full profile."""
_PROFILE_PX = 19.0
"""misfit_px no pose reaches."""
_BETTER = 0.5
"""Another order is the right one where its misfit is below this share of the given order's."""
_SAMPLE = 10_000
_NOTICEABLE = 0.05
_NARROW, _OFF_AXIS = 0.6, 0.2
"""Of a profile: eyes and mouth corners are closer to each other, the nose is farther from the line between their
middles, as shares of the distance of these middles."""

_ORDERS = {
    "left and right are exchanged": lambda points: points[:, [1, 0, 2, 4, 3]],
    "x and y are exchanged": lambda points: points[..., ::-1],
    "the eyes are exchanged": lambda points: points[:, [1, 0, 2, 3, 4]],
    "the mouth corners are exchanged": lambda points: points[:, [0, 1, 2, 4, 3]],
    "they are x1..x5,y1..y5": lambda points: points.reshape(-1, 2, 5).transpose(0, 2, 1),
    "they are y1..y5,x1..x5": lambda points: points.reshape(-1, 2, 5)[:, ::-1].transpose(0, 2, 1),
    "the nose comes first": lambda points: points[:, [1, 2, 0, 3, 4]],
    "the nose comes last": lambda points: points[:, [0, 1, 4, 2, 3]],
    "the mouth comes before the eyes": lambda points: points[:, [3, 4, 2, 0, 1]],
}


def require_faces(path: str, points_N52: np.ndarray) -> list[str]:
    """Return a line where a noticeable share of the landmarks misfits; raise DataError where most are certainly wrong.

    Looks at no more than 10,000 rows, evenly spread. Certainly wrong is what spans less than 2 px, what misfits by
    more than any pose, or like a profile without the form of one, and what fits upright and twice as well in another
    order.
    Measured on the published landmarks of 6,921 photographs of LFW: the median misfit is 3.0 px, the 99.9th percentile
    9.7, the largest 11.6, and the best other order never comes below .89 of the misfit. Brought into a wrong order,
    at least 99.7 % are certainly wrong (91 % of them as x1..x5,y1..y5 of faces 20 px further left). Five points of
    4,000 heads in 3D come to 6-14 px at a yaw of 60 degrees and 13-19 at 90, the best other order to .73 of that or
    more: a folder of profiles gives the line only.
    """
    rows = np.unique(np.linspace(0, len(points_N52) - 1, min(len(points_N52), _SAMPLE)).astype(np.int64))
    points = np.asarray(points_N52[rows], np.float64)
    misfit, _ = _fit(points)
    flat = np.ptp(points, axis=1).max(axis=1) < MIN_SPAN_PX
    fits = [_fit(order(points)) for order in _ORDERS.values()]
    others = np.array([np.where(upright, other, np.inf) for other, upright in fits])
    better = ~flat & (others.min(axis=0) < _BETTER * misfit)
    unlike = (misfit > MISFIT_LIMIT_PX) & ~_profiles(points)
    wrong = flat | better | unlike | (misfit > _PROFILE_PX)
    if 2 * np.count_nonzero(wrong) > len(rows):
        counts = {"they are fractions of the image, not pixels": np.count_nonzero(flat)}
        counts |= zip(_ORDERS, np.bincount(others.argmin(axis=0)[better], minlength=len(_ORDERS)), strict=True)
        looks = max(counts, key=lambda order: counts[order])
        known = f", it looks as if {looks}" if 2 * counts[looks] > np.count_nonzero(wrong) else ""
        raise DataError(
            f"{path}: {wrong.mean():.0%} of the landmarks are no face in template order{known}; write eye on the "
            "image's left, eye on its right, nose, mouth left, mouth right, each as x,y in pixels"
        )
    far = np.count_nonzero(wrong | (misfit > MISFIT_LIMIT_PX))
    if far <= _NOTICEABLE * len(rows):
        return []
    return [f"{path}: {far / len(rows):.0%} of the landmarks are unlike a face in template order; are these profiles?"]


def misfit_px(points_NK2: np.ndarray) -> np.ndarray:
    """Return how far each face is from the template after the best similarity, RMS over its points, 112 px crop.

    Frontal faces come to 1-4, strong poses to 12, points in another order or with x and y exchanged to 14 and more.
    """
    return _fit(points_NK2)[0]


def _profiles(points_N52: np.ndarray) -> np.ndarray:
    """Tell which faces are seen from the side: narrow, the nose beside the line from the eyes to the mouth."""
    left_eye, right_eye, nose, left_mouth, right_mouth = (points_N52[..., 0] + 1j * points_N52[..., 1]).T
    eyes, mouth = (left_eye + right_eye) / 2, (left_mouth + right_mouth) / 2
    axis = np.where(mouth == eyes, np.finfo(np.float64).tiny, mouth - eyes)
    length = np.abs(axis)
    widest = np.maximum(np.abs(right_eye - left_eye), np.abs(right_mouth - left_mouth))
    beside = np.abs(((nose - eyes) * axis.conj()).imag) / length
    return (widest < _NARROW * length) & (beside > _OFF_AXIS * length)


def _fit(points_NK2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the misfit of each face, and whether it is upright, within 45 degrees."""
    z_NK = points_NK2[..., 0].astype(np.float64) + 1j * points_NK2[..., 1]
    z_NK = z_NK - z_NK.mean(axis=1, keepdims=True)
    target_K = TEMPLATE_112[:, 0] + 1j * TEMPLATE_112[:, 1]
    target_K = target_K - target_K.mean()
    power_N = np.maximum((np.abs(z_NK) ** 2).sum(axis=1), np.finfo(np.float64).tiny)
    turn_N = (z_NK.conj() * target_K).sum(axis=1) / power_N
    misfit_N = np.sqrt((np.abs(target_K - turn_N[:, None] * z_NK) ** 2).mean(axis=1))
    return misfit_N, turn_N.real > np.abs(turn_N.imag)
