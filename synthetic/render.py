"""Render one image of one person, and the landmarks where they really are."""

from dataclasses import dataclass, field

import cv2
import numpy as np

from synthetic.canvas import look_up, scaled, st_to_px
from synthetic.geometry import (
    Camera,
    Shape,
    Surface,
    cast,
    head_axes,
    nose_tip_y,
    open_jaw,
    plane_to_st,
    skull_relief,
)
from synthetic.hair import add_hair
from synthetic.identity import RGB, Identity
from synthetic.props import backdrop, draw_body, draw_glasses, frame_lines
from synthetic.texture import Expression, Texture, eye_centres, mouth_corners


@dataclass(frozen=True)
class Light:
    """Direction the light comes from, the share of it that comes from everywhere, and its colour.

    Azimuth and elevation in degrees; (0, 0) is the camera, azimuth > 0 the image's right, elevation > 0 above.
    """

    azimuth: float = 0.0
    elevation: float = 25.0
    ambient: float = 0.6
    tint: RGB = (1.0, 1.0, 1.0)

    def direction(self) -> np.ndarray:
        """Return the unit vector towards the light, camera frame."""
        a, e = np.radians([self.azimuth, self.elevation])
        return np.array([np.sin(a) * np.cos(e), -np.sin(e), np.cos(a) * np.cos(e)])


@dataclass(frozen=True)
class Scene:
    """Everything of an image that is not the person."""

    camera: Camera
    held: Expression = field(default_factory=Expression)
    light: Light = field(default_factory=Light)
    glasses: bool = True
    """Whether a person who has glasses wears them."""


@dataclass(frozen=True)
class Rendered:
    """One image and what is known about it."""

    image: np.ndarray
    """(S, S, 3) float32 RGB, 0 to 255."""
    landmarks: np.ndarray
    """(5, 2) float64 px, template order; exact also where the point is hidden."""
    face: np.ndarray
    """(S, S) float32: share of each pixel that shows the head without hair."""
    surface: Surface
    axes: np.ndarray
    """Half axes (3,) of the head."""
    eyes: np.ndarray
    """Centres (2, 2) of the eyes, seen from the front."""


def landmark_st(who: Identity, held: Expression) -> np.ndarray:
    """Return the stereographic coordinates (5, 2) of the landmarks, template order."""
    tip = np.array([[0.0, nose_tip_y(who)]])
    return plane_to_st(np.concatenate([eye_centres(who), tip, mouth_corners(who, held)]), head_axes(who))


def shade(surface: Surface, camera: Camera, light: Light) -> np.ndarray:
    """Return brightness (h, w) float32 from the normals of the surface."""
    step = camera.size_px / surface.depth.shape[0] / camera.scale_px
    depth = cv2.GaussianBlur(surface.depth, (0, 0), 0.7)
    dx = cv2.Sobel(depth, cv2.CV_32F, 1, 0, ksize=3, scale=0.125 / step)
    dy = cv2.Sobel(depth, cv2.CV_32F, 0, 1, ksize=3, scale=0.125 / step)
    lx, ly, lz = light.direction().astype(np.float32)
    norm = 1 / np.sqrt(1 + dx * dx + dy * dy)
    facing = (lz - dx * lx - dy * ly) * norm
    direct = 1.15 * np.maximum((facing + 0.15) / 1.15, 0) + 0.10 * np.maximum(facing, 0) ** 18
    everywhere = 0.82 + 0.20 * np.minimum(norm * 1.6, 1)
    return (light.ambient * everywhere + (1 - light.ambient) * direct).astype(np.float32)


class Person:
    """Everything about one person that is computed once; `twin` is the same person in another look."""

    def __init__(self, who: Identity, twin: "Person | None" = None):
        self.who = who
        self.texture = Texture(who, twin and twin.texture)
        self.skull = skull_relief(who) if twin is None else twin.skull
        self.relief = add_hair(self.skull, who, self.texture.mask)

    def shape(self, held: Expression) -> Shape:
        """Return the surface under an expression."""
        return Shape(head_axes(self.who), open_jaw(self.relief, self.who, held.mouth_open))

    def render(self, scene: Scene, rng: np.random.Generator) -> Rendered:
        """Render a scene; the generator draws background and clothes."""
        camera, shape, who = scene.camera, self.shape(scene.held), self.who
        size = (camera.size_px, camera.size_px)
        surface = cast(shape, camera)
        behind = backdrop(rng, camera.size_px)
        red, green, blue = map(float, rng.uniform(25, 225) + rng.normal(0, 25, 3))
        draw_body(behind, who, camera, 0.75 + 0.25 * scene.light.ambient, (red, green, blue))

        position = st_to_px(cv2.resize(surface.st, size, interpolation=cv2.INTER_LINEAR))
        colours = look_up(self.texture.paint(scene.held), position, cv2.BORDER_REPLICATE)
        light = cv2.resize(shade(surface, camera, scene.light), size, interpolation=cv2.INTER_LINEAR)
        share = np.clip(cv2.resize(surface.inside, size, interpolation=cv2.INTER_LINEAR) + np.float32(0.5), 0, 1)
        image = behind.astype(np.float32)
        image += (colours * light[..., None] - image) * share[..., None]
        if scene.glasses and who.glasses:
            ink = (scaled(who.glasses.colour, 0.6 + 0.4 * scene.light.ambient), who.glasses.thickness)
            draw_glasses(image, frame_lines(who, who.glasses), camera, surface, ink)
        image *= np.asarray(scene.light.tint, np.float32)

        hair = look_up(self.texture.mask, position, cv2.BORDER_REPLICATE)
        points = camera.project(shape.surface_points(landmark_st(who, scene.held)))[:, :2]
        return Rendered(
            image, points, share * (1 - hair.astype(np.float32) / 255), surface, shape.axes, eye_centres(who)
        )
