"""Tell whether landmarks can be faces in template order; a wrong order or unit gives crops, but not of faces."""

from functools import lru_cache

import numpy as np

from data.alignment import MIN_SPAN_PX, TEMPLATE_112
from utils.errors import DataError

_POSED_LIMIT_PX = 8.0
"""Distance to the nearest view of a head, in pixels of the template, that no face reaches."""
_PROFILE_PX = 13.0
"""misfit_px that only profiles reach: their nose lies beside the face."""
_NO_POSE_PX = 19.0
"""misfit_px no pose reaches; faces turned by 60 to 70 degrees do, left and right exchanged."""
_BESIDE = 0.15
"""Of a profile: distance of the nose from the line between the middles of eyes and mouth, as a share of its length."""
_DEPTH_PX = np.array([0, 0, 18, 4.5, 4.5])
"""How far the template's points lie before the eyes: nose 32 mm, mouth 8 mm, where the eyes are 63 mm apart."""
_YAWS, _PITCHES = range(-90, 91, 15), range(-40, 41, 20)
_BETTER = 0.5
"""Another order is the right one where its misfit is below this share of the given order's."""
_SAMPLE = 10_000
_NOTICEABLE = 0.05

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
    """Return a line where a noticeable share of the landmarks are no faces; raise DataError where most are not.

    Looks at no more than 10,000 rows, evenly spread. No face is what spans less than 2 px, what is unlike a face in
    any pose, and what fits upright and twice as well in another order.
    Measured on the published landmarks of 6,921 photographs of LFW: the median misfit is 3.0 px, the largest 11.6,
    and the best other order never comes below .89 of the misfit. Five points of 4,000 heads in 3D come to 6-14 px at
    a yaw of 60 degrees and 13-19 at 90, the best other order to .73 of that or more.
    """
    rows = np.unique(np.linspace(0, len(points_N52) - 1, min(len(points_N52), _SAMPLE)).astype(np.int64))
    points = np.asarray(points_N52[rows], np.float64)
    misfit = misfit_px(points)
    flat = np.ptp(points, axis=1).max(axis=1) < MIN_SPAN_PX
    fits = [_fit(order(points)) for order in _ORDERS.values()]
    others = np.array([np.where(upright, other, np.inf) for other, upright in fits])
    better = ~flat & (others.min(axis=0) < _BETTER * misfit)
    wrong = flat | better | unlike_face(points)
    if 2 * np.count_nonzero(wrong) > len(rows):
        counts = {"they are fractions of the image, not pixels": np.count_nonzero(flat)}
        counts |= zip(_ORDERS, np.bincount(others.argmin(axis=0)[better], minlength=len(_ORDERS)), strict=True)
        looks = max(counts, key=lambda order: counts[order])
        known = f", it looks as if {looks}" if 2 * counts[looks] > np.count_nonzero(wrong) else ""
        raise DataError(
            f"{path}: {wrong.mean():.0%} of the landmarks are no face in template order{known}; write eye on the "
            "image's left, eye on its right, nose, mouth left, mouth right, each as x,y in pixels"
        )
    if np.count_nonzero(wrong) <= _NOTICEABLE * len(rows):
        return []
    return [f"{path}: {wrong.mean():.0%} of the landmarks are unlike a face in template order, whatever its pose"]


def unlike_face(points_N52: np.ndarray) -> np.ndarray:
    """Tell which points (N, 5, 2) are no face in template order, from the front up to the profile, however rolled.

    That is what lies far from every view of a head, and what lies as far from the template as profiles do without a
    nose beside the face: a piece of a jaw's line looks like a head from the side.
    LFW's published landmarks are at most 5.6 px from a view; moved by up to 6 px of the template, 8.4, one of 6,921
    beyond the limit. Five points of heads in 3D come to 4.2 px, whatever their yaw. Brought into a wrong order, at
    least 99.8 % of LFW's landmarks are no faces (68 % as x1..x5,y1..y5 of faces 20 px further left).
    """
    misfit = misfit_px(points_N52)
    unlike = misfit > _NO_POSE_PX
    far = misfit > _POSED_LIMIT_PX  # the template is one of the views
    unlike[far] |= _posed_misfit(points_N52[far]) > _POSED_LIMIT_PX
    profile = misfit > _PROFILE_PX
    unlike[profile] |= ~_nose_beside(points_N52[profile])
    return unlike


def misfit_px(points_NK2: np.ndarray) -> np.ndarray:
    """Return how far each face is from the template after the best similarity, RMS over its points, 112 px crop.

    Frontal faces come to 1-4, strong poses to 12, points in another order or with x and y exchanged to 14 and more.
    """
    return _fit(points_NK2)[0]


def _posed_misfit(points_N52: np.ndarray) -> np.ndarray:
    """Return how far each face is from the nearest view of a head after the best similarity, RMS, template px."""
    z_N5 = points_N52[..., 0].astype(np.float64) + 1j * points_N52[..., 1]
    z_N5 = z_N5 - z_N5.mean(axis=1, keepdims=True)
    power_N = np.maximum((np.abs(z_N5) ** 2).sum(axis=1), np.finfo(np.float64).tiny)
    views_V5 = _views()
    explained_NV = np.abs(z_N5.conj() @ views_V5.T) ** 2 / power_N[:, None]
    left_NV = (np.abs(views_V5) ** 2).sum(axis=1) - explained_NV
    return np.sqrt(np.maximum(left_NV.min(axis=1, initial=np.inf), 0) / 5)


@lru_cache(maxsize=1)
def _views() -> np.ndarray:
    """Return the template's points on a head seen from all sides, from afar: (V, 5) complex about their means."""
    x, y = (TEMPLATE_112 - TEMPLATE_112.mean(axis=0)).T
    yaw, pitch = (angle.reshape(-1, 1) for angle in np.radians(np.meshgrid(_YAWS, _PITCHES)))
    seen = x * np.cos(yaw) + _DEPTH_PX * np.sin(yaw)
    depth = _DEPTH_PX * np.cos(yaw) - x * np.sin(yaw)
    views = seen + 1j * (y * np.cos(pitch) - depth * np.sin(pitch))
    return views - views.mean(axis=1, keepdims=True)


def _nose_beside(points_N52: np.ndarray) -> np.ndarray:
    """Tell where the nose lies beside the line from the middle of the eyes to the middle of the mouth."""
    left_eye, right_eye, nose, left_mouth, right_mouth = (points_N52[..., 0] + 1j * points_N52[..., 1]).T
    eyes, mouth = (left_eye + right_eye) / 2, (left_mouth + right_mouth) / 2
    axis = np.where(mouth == eyes, np.finfo(np.float64).tiny, mouth - eyes)
    return np.abs(((nose - eyes) * axis.conj()).imag) > _BESIDE * np.abs(axis) ** 2


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
