"""Paint the colours of a face on the map of its surface."""

from dataclasses import dataclass

import cv2
import numpy as np

from synthetic.canvas import (
    MAP_PX,
    SUBPIXEL,
    UNIT_PX,
    Canvas,
    blend,
    ellipse,
    mirrored,
    rounded,
    scaled,
    st_to_px,
    tinted,
    toward,
)
from synthetic.geometry import head_axes, nose_tip_y
from synthetic.hair import grain_map, hair_colours, hair_mask
from synthetic.identity import Identity

CURVE = np.linspace(-1, 1, 13)


@dataclass(frozen=True)
class Expression:
    """How the face is held: opening of the mouth, smile, closing of the eyes and lift of the brows, each 0 to 1.

    Smile and brows may be a little negative; gaze is the shift of the iris (x, y) in half eye widths.
    """

    mouth_open: float = 0.0
    smile: float = 0.0
    blink: float = 0.0
    brow_raise: float = 0.0
    gaze: tuple[float, float] = (0.0, 0.0)


def mouth_corners(who: Identity, held: Expression) -> np.ndarray:
    """Return the left and the right corner of the mouth (2, 2), seen from the front."""
    half = who.mouth.width / 2 * (1 + 0.20 * held.smile - 0.16 * held.mouth_open)
    y = nose_tip_y(who) + who.mouth.y + who.mouth.corner - 0.075 * held.smile + 0.05 * held.mouth_open
    return np.array([[-half, y], [half, y]])


def eye_centres(who: Identity) -> np.ndarray:
    """Return the centres of the left and the right eye (2, 2), seen from the front."""
    return np.array([[-who.eyes.distance / 2, who.eyes.y], [who.eyes.distance / 2, who.eyes.y]])


class Texture:
    """Colours of one person: what stays is painted once, what moves is painted for every image.

    `twin` is the same person in another look, whose skin is taken over.
    """

    def __init__(self, who: Identity, twin: "Texture | None" = None):
        self.who, self.axes = who, head_axes(who)
        self.mask = hair_mask(who)
        if twin is None:
            self.canvas = Canvas(tinted(1 + 0.018 * who.skin.grain * grain_map(), who.skin.colour), self.axes)
            self._paint_skin()
            self.skin = self.canvas.pixels.copy()
        else:
            self.skin = twin.skin
            self.canvas = Canvas(twin.skin.copy(), self.axes)
        self._paint_beard()
        self.hair = hair_colours(who)
        self.base = self.canvas.pixels
        blend(self.base, self.hair, self.mask.astype(np.float32) / 255)

    def _paint_skin(self) -> None:
        """Paint shadows of the face, blush, freckles and moles."""
        who, skin, canvas = self.who, self.who.skin.colour, self.canvas
        tip, dark = nose_tip_y(who), scaled(self.who.skin.colour, 0.55)
        red = toward(scaled(skin, 0.95), (214, 92, 84), 0.5)
        for side, eye in zip((-1, 1), eye_centres(who), strict=True):
            canvas.soften(ellipse((side * 0.40, who.eyes.y + 0.34), (0.17, 0.13)), red, who.skin.blush, 9)
            canvas.soften(
                ellipse((eye[0], eye[1] - 0.02), (who.eyes.width * 0.66, 0.13)), dark, 0.18 + 0.5 * who.eyes.shadow, 6
            )
            flank = np.array(
                [
                    (0.075, who.eyes.y - 0.10),
                    (who.nose.bridge + 0.045, who.eyes.y + 0.04),
                    (who.nose.width * 0.9, tip - 0.02),
                    (who.nose.tip * 0.7, tip - 0.03),
                    (0.045, who.eyes.y + 0.06),
                ]
            )
            canvas.soften(flank * (side, 1), dark, 0.42, 3.5)
            inner_ear = st_to_px(ellipse((side * 1.05, who.eyes.y + 0.16), (0.035, 0.12)))
            cv2.fillPoly(
                canvas.pixels, [np.round(inner_ear * 16).astype(np.int32)], scaled(skin, 0.72), cv2.LINE_AA, shift=4
            )
        canvas.soften(ellipse((0, tip + 0.075), (who.nose.width * 0.9, 0.03)), dark, 0.5, 3)
        canvas.soften(ellipse((0, tip + who.mouth.y + 0.14), (0.15, 0.03)), dark, 0.30, 4)
        brown = toward(scaled(skin, 0.62), (96, 52, 34), 0.5)
        for x, y in who.skin.freckles:
            canvas.fill(ellipse((x, who.eyes.y + y), (0.012, 0.012), 8), toward(skin, brown, who.skin.freckle_strength))
        for x, y, radius in who.skin.marks:
            canvas.fill(ellipse((x, y), (radius, radius), 12), scaled(brown, 0.7))

    def _paint_beard(self) -> None:
        """Paint stubble, a moustache, a goatee or a full beard."""
        who, canvas = self.who, self.canvas
        if who.beard == "none":
            return
        tip = nose_tip_y(who)
        lip = tip + who.mouth.y
        colour = toward(scaled(who.brow_colour, 0.8), (40, 30, 26), 0.25)
        strength = 0.30 if who.beard == "stubble" else who.beard_strength
        wide, half = 0.98 * self.axes[0], who.mouth.width / 2
        full = np.array(
            [
                (-wide, 0.05),
                (-wide * 0.93, 0.36),
                (-half - 0.12, lip - 0.12),
                (-0.05, tip + 0.10),
                (0.05, tip + 0.10),
                (half + 0.12, lip - 0.12),
                (wide * 0.93, 0.36),
                (wide, 0.05),
                (0.99 * wide, 0.7),
                (0.4, 1.3),
                (-0.4, 1.3),
                (-0.99 * wide, 0.7),
            ]
        )
        lip_hair = np.array(
            [
                (-half - 0.05, lip + 0.03),
                (-half * 0.7, lip - 0.07),
                (-0.05, tip + 0.09),
                (0.05, tip + 0.09),
                (half * 0.7, lip - 0.07),
                (half + 0.05, lip + 0.03),
                (half * 0.6, lip - 0.02),
                (-half * 0.6, lip - 0.02),
            ]
        )
        chin = ellipse((0, lip + 0.27), (0.24, 0.17))
        shapes = {"stubble": [full], "full": [full], "moustache": [lip_hair], "goatee": [lip_hair, chin]}[who.beard]
        before = canvas.pixels.copy()
        for shape in shapes:
            canvas.soften(rounded(shape, 2), colour, strength, 3.5)
        changed = np.abs(canvas.pixels.astype(np.int16) - before).sum(-1) > 6
        level = 1 + 0.10 * grain_map()[changed]
        canvas.pixels[changed] = np.clip(canvas.pixels[changed] * level[:, None], 0, 255).astype(np.uint8)

    def paint(self, held: Expression) -> np.ndarray:
        """Return the colour map (MAP_PX, MAP_PX, 3) uint8 RGB for one expression."""
        canvas = Canvas(self.base.copy(), self.axes)
        self._paint_folds(canvas, held)
        self._paint_nose(canvas)
        for side in (-1, 1):
            self._paint_eye(canvas, side, held)
            self._paint_brow(canvas, side, held)
        self._paint_mouth(canvas, held)
        if self.who.hair.style in ("fringe", "swept", "bob", "long"):
            rows, columns = slice(MAP_PX // 4, MAP_PX // 2), slice(MAP_PX // 8, MAP_PX - MAP_PX // 8)
            blend(
                canvas.pixels[rows, columns],
                self.hair[rows, columns],
                self.mask[rows, columns].astype(np.float32) / 255,
            )
        return canvas.pixels

    def _paint_folds(self, canvas: Canvas, held: Expression) -> None:
        """Paint the folds between nose and mouth, deeper in a smile."""
        who, tip = self.who, nose_tip_y(self.who)
        corner = mouth_corners(who, held)[1]
        fold = np.array(
            [
                (who.nose.width + 0.02, tip + 0.01),
                (corner[0] * 0.9 + 0.05, tip + 0.10),
                (corner[0] + 0.06, corner[1] + 0.01),
                (corner[0] * 0.9 + 0.035, tip + 0.11),
            ]
        )
        strength = 0.45 * min(who.skin.folds + 0.7 * max(held.smile, 0), 1)
        for points in (fold, mirrored(fold)):
            canvas.soften(points, scaled(who.skin.colour, 0.5), strength, 1.2)

    def _paint_nose(self, canvas: Canvas) -> None:
        """Paint nostrils and the edges of the wings."""
        who, tip = self.who, nose_tip_y(self.who)
        dark, width = scaled(who.skin.colour, 0.32), who.nose.width
        wing = np.array(
            [(width * 0.92, tip - 0.05), (width * 1.04, tip), (width * 0.98, tip + 0.045), (width * 0.8, tip + 0.06)]
        )
        for side in (-1, 1):
            canvas.fill(ellipse((side * width * 0.46, tip + 0.052), (width * 0.24, 0.020), 12), dark)
            canvas.line(wing * (side, 1), scaled(who.skin.colour, 0.62), 0.012)

    def _paint_eye(self, canvas: Canvas, side: int, held: Expression) -> None:
        """Paint one eye with its lids."""
        who, eyes = self.who, self.who.eyes
        half, closed = eyes.width / 2, min(max(held.blink + 0.15 * max(held.smile, 0), 0), 1)
        arc = np.sqrt(np.clip(1 - CURVE**2, 0, 1)) * (1 - 0.12 * CURVE)
        lower = np.stack([CURVE * half, 0.42 * eyes.opening * arc - eyes.tilt * CURVE * half], -1)
        upper = np.stack([CURVE * half, -0.58 * eyes.opening * arc - eyes.tilt * CURVE * half], -1)
        upper = upper + (lower - upper) * 0.96 * closed
        centre = eye_centres(who)[(side + 1) // 2]
        outward = np.array([side, 1])
        almond = np.concatenate([upper, lower[::-1]]) * outward + centre
        skin, ink = who.skin.colour, toward(scaled(who.skin.colour, 0.2), (20, 14, 14), 0.6)
        lid = np.concatenate([upper * (1.06, 1) - (0, 0.012 + 0.03 * eyes.crease), lower[::-1]]) * outward + centre
        canvas.fill(lid, toward(scaled(skin, 0.86), (120, 70, 70), 0.12))
        if closed < 0.9:
            self._paint_eyeball(canvas, almond, centre + np.array(held.gaze) * half)
        if eyes.crease > 0.25:
            canvas.line(
                (upper * (1.04, 1) - (0, 0.020 + 0.035 * eyes.crease)) * outward + centre, scaled(skin, 0.60), 0.010
            )
        canvas.line(upper * outward + centre, ink, 0.018 * eyes.lashes)
        canvas.line(lower * outward + centre, scaled(skin, 0.62), 0.008)

    def _paint_eyeball(self, canvas: Canvas, almond: np.ndarray, pupil: np.ndarray) -> None:
        """Paint white, iris, pupil and glint, cut by the lids."""
        eyes = self.who.eyes
        radius = eyes.iris_size * eyes.width * 0.46
        placed = canvas.place(almond)
        low, high = (placed.min(0) >> SUBPIXEL) - 2, (placed.max(0) >> SUBPIXEL) + 3
        view = canvas.pixels[low[1] : high[1], low[0] : high[0]]
        mask = np.zeros(view.shape[:2], np.uint8)
        cv2.fillPoly(mask, [placed - (low << SUBPIXEL)], 255, cv2.LINE_AA, shift=SUBPIXEL)
        ball = np.empty(view.shape, np.uint8)
        ball[:] = (236, 230, 224)
        at = tuple(int(v) for v in canvas.place(pupil[None])[0] - (low << SUBPIXEL))
        unit = UNIT_PX / self.axes[0] * 2**SUBPIXEL
        for size, colour in ((1.0, scaled(eyes.iris, 0.55)), (0.84, eyes.iris), (0.42, (12, 10, 10))):
            cv2.circle(ball, at, int(size * radius * unit), colour, -1, cv2.LINE_AA, shift=SUBPIXEL)
        glint = (at[0] - int(0.3 * radius * unit), at[1] - int(0.35 * radius * unit))
        cv2.circle(ball, glint, int(0.2 * radius * unit), (250, 250, 250), -1, cv2.LINE_AA, shift=SUBPIXEL)
        blend(view, ball, mask.astype(np.float32) / 255)

    def _paint_brow(self, canvas: Canvas, side: int, held: Expression) -> None:
        """Paint one eyebrow, thin towards its outer end."""
        who, brows = self.who, self.who.brows
        x = np.linspace(-0.5, 0.5, 9)
        rise = brows.arch * (1 - (2 * x - 0.3) ** 2) + brows.tilt * x * brows.length
        centre = np.array([side * (who.eyes.distance / 2 + 0.02), who.eyes.y - brows.gap - 0.07 * held.brow_raise])
        width = brows.thickness * np.clip(1.25 - 1.5 * np.abs(x - (-0.2)), 0.22, 1) / 2
        line = np.stack([x * brows.length, -rise], -1)
        outline = np.concatenate([line - np.stack([0 * x, width], -1), (line + np.stack([0 * x, width], -1))[::-1]])
        colour = toward(scaled(who.brow_colour, 0.75), (60, 44, 36), 0.35)
        canvas.soften(outline * (side, 1) + centre, colour, brows.strength, 0)

    def _paint_mouth(self, canvas: Canvas, held: Expression) -> None:
        """Paint the lips, and teeth behind them when the mouth is open."""
        who, mouth = self.who, self.who.mouth
        right = mouth_corners(who, held)[1]
        half, corner_y = right[0], right[1]
        middle = nose_tip_y(who) + mouth.y
        opening = 0.20 * held.mouth_open + 0.035 * max(held.smile - 0.45, 0) / 0.55
        bend = 1 - CURVE**2
        edge = corner_y + (middle - corner_y) * bend
        bow = mouth.bow * np.exp(-((CURVE / 0.16) ** 2))
        x = CURVE * half
        top = edge - mouth.upper * np.sqrt(bend) + bow
        seam_up, seam_low = edge, edge + opening * bend
        bottom = seam_low + mouth.lower * bend**0.7
        lips = toward(who.skin.colour, toward(mouth.colour, scaled(who.skin.colour, 0.8), 0.25), mouth.colour_strength)
        canvas.fill(np.stack([np.r_[x, x[::-1]], np.r_[top, bottom[::-1]]], -1), lips)
        canvas.fill(np.stack([np.r_[x, x[::-1]], np.r_[top, seam_up[::-1]]], -1), scaled(lips, 0.86))
        if opening > 0.012:
            inner = 0.94
            canvas.fill(np.stack([np.r_[x, x[::-1]] * inner, np.r_[seam_up, seam_low[::-1]]], -1), (66, 22, 26))
            teeth = np.minimum(seam_up + 0.065 * bend, seam_low)
            canvas.fill(np.stack([np.r_[x, x[::-1]] * 0.82, np.r_[seam_up, teeth[::-1]]], -1), (232, 226, 214))
        else:
            canvas.line(np.stack([x, seam_up], -1), scaled(lips, 0.45), 0.012)
