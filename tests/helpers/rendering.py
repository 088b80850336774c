"""Rendered faces of known people, from the front unless told otherwise."""

import numpy as np

from synthetic.geometry import Camera, Pose
from synthetic.identity import draw_looks
from synthetic.render import Person, Rendered, Scene


def person(number: int = 1, seed: int = 3) -> Person:
    """Return somebody in the usual look."""
    return Person(draw_looks(seed, number)[0])


def frontal(pose: Pose | None = None, size_px: int = 160) -> Camera:
    """Return a camera that sees the head in the middle of its image."""
    return Camera(pose or Pose(), 58.0, (80.0, 79.0), size_px)


def rendered(who: Person, **scene) -> Rendered:
    """Render a person without glasses; `scene` replaces what a Scene says."""
    scene = {"camera": frontal(), "glasses": False, **scene}
    return who.render(Scene(**scene), np.random.default_rng(5))
