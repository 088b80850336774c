"""Draw who a synthetic person is: every trait is a number with a range, so no two people share a face."""

from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import numpy as np

Traits = TypeVar("Traits")
RGB = tuple[float, float, float]

SKIN_TONES: tuple[RGB, ...] = (
    (92, 60, 45),
    (134, 90, 66),
    (176, 124, 93),
    (208, 158, 126),
    (232, 188, 158),
    (247, 214, 192),
)
HAIR_COLOURS: tuple[RGB, ...] = (
    (22, 19, 20),
    (52, 36, 28),
    (92, 62, 40),
    (134, 92, 54),
    (196, 158, 98),
    (226, 204, 158),
    (142, 58, 30),
    (186, 92, 44),
    (146, 144, 144),
    (214, 212, 208),
)
HAIR_WEIGHTS = (0.2, 0.16, 0.15, 0.1, 0.1, 0.06, 0.06, 0.06, 0.06, 0.05)
IRIS_COLOURS: tuple[RGB, ...] = (
    (54, 34, 22),
    (98, 62, 34),
    (118, 104, 58),
    (76, 112, 84),
    (86, 124, 160),
    (120, 134, 142),
)
LIP_COLOURS: tuple[RGB, ...] = ((150, 74, 70), (186, 92, 92), (204, 112, 108), (168, 40, 56))
FRAME_COLOURS: tuple[RGB, ...] = (
    (24, 24, 26),
    (92, 52, 30),
    (150, 30, 36),
    (36, 62, 120),
    (176, 154, 96),
    (150, 154, 158),
)
HAIR_STYLES = ("bald", "buzz", "short", "swept", "fringe", "long", "bob", "afro")
STYLE_WEIGHTS = (0.07, 0.11, 0.16, 0.15, 0.15, 0.14, 0.12, 0.10)
BEARDS = ("none", "stubble", "moustache", "goatee", "full")
BEARD_WEIGHTS = (0.62, 0.11, 0.08, 0.08, 0.11)


def spread(low: float, high: float) -> Any:
    """Declare a trait that is uniform between two bounds."""
    return field(metadata={"range": (low, high)})


def draw(traits: type[Traits], rng: np.random.Generator, **given: Any) -> Traits:
    """Draw every trait that has a range, in the order of the fields; take the others from `given`."""
    ranges = {f.name: f.metadata["range"] for f in fields(traits) if "range" in f.metadata}  # type: ignore[arg-type]
    values = {name: float(rng.uniform(*bounds)) for name, bounds in ranges.items()}
    return traits(**values, **given)


@dataclass(frozen=True)
class Head:
    """Size of the head and the line of its jaw. Unit: half the height of the head (about 11.5 cm)."""

    width: float = spread(0.63, 0.79)
    height: float = spread(0.94, 1.08)
    depth: float = spread(0.80, 0.94)
    forehead: float = spread(0.90, 1.10)
    cheekbones: float = spread(0.93, 1.07)
    jaw: float = spread(0.84, 1.20)
    chin_width: float = spread(0.70, 1.32)
    chin_forward: float = spread(-0.02, 0.14)
    ear: float = spread(0.06, 0.20)


@dataclass(frozen=True)
class Eyes:
    """Place, size and shape of the eyes; y is down from the middle of the head."""

    distance: float = spread(0.46, 0.67)
    y: float = spread(-0.07, 0.07)
    width: float = spread(0.215, 0.315)
    opening: float = spread(0.075, 0.150)
    tilt: float = spread(-0.20, 0.24)
    depth: float = spread(0.015, 0.075)
    crease: float = spread(0.0, 1.0)
    lashes: float = spread(0.4, 1.6)
    shadow: float = spread(0.0, 0.45)
    iris_size: float = spread(0.42, 0.54)
    iris: RGB = (0, 0, 0)


@dataclass(frozen=True)
class Brows:
    """Place and shape of the eyebrows."""

    gap: float = spread(0.125, 0.235)
    length: float = spread(0.27, 0.42)
    thickness: float = spread(0.022, 0.085)
    arch: float = spread(0.0, 0.085)
    tilt: float = spread(-0.20, 0.22)
    strength: float = spread(0.45, 1.0)


@dataclass(frozen=True)
class Nose:
    """Length, width and height of the nose."""

    length: float = spread(0.22, 0.36)
    width: float = spread(0.115, 0.215)
    bridge: float = spread(0.055, 0.105)
    height: float = spread(0.15, 0.30)
    root: float = spread(0.0, 0.07)
    tip: float = spread(0.06, 0.115)


@dataclass(frozen=True)
class Mouth:
    """Place and shape of the mouth; y is down from the tip of the nose."""

    y: float = spread(0.27, 0.41)
    width: float = spread(0.38, 0.60)
    upper: float = spread(0.022, 0.070)
    lower: float = spread(0.035, 0.095)
    bow: float = spread(0.0, 0.030)
    corner: float = spread(-0.060, 0.000)
    colour_strength: float = spread(0.35, 0.95)
    colour: RGB = (0, 0, 0)


@dataclass(frozen=True)
class Skin:
    """Colour of the skin and what is on it; marks are (x, y, radius) on the face, seen from the front."""

    blush: float = spread(0.0, 0.35)
    folds: float = spread(0.0, 0.75)
    freckle_strength: float = spread(0.25, 0.7)
    grain: float = spread(0.4, 1.0)
    colour: RGB = (0, 0, 0)
    marks: tuple[tuple[float, float, float], ...] = ()
    freckles: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Hair:
    """Style, colour and line of the hair."""

    line: float = spread(0.60, 0.80)
    corner: float = spread(0.30, 0.55)
    peak: float = spread(-0.05, 0.07)
    volume: float = spread(0.6, 1.4)
    side: float = spread(-1.0, 1.0)
    fringe: float = spread(0.28, 0.46)
    opening: float = spread(0.47, 0.66)
    streaks: float = spread(0.12, 0.36)
    style: str = "short"
    colour: RGB = (0, 0, 0)


@dataclass(frozen=True)
class Glasses:
    """Frame of the glasses, worn on most images of a person who has them."""

    width: float = spread(0.36, 0.50)
    height: float = spread(0.22, 0.36)
    roundness: float = spread(2.0, 5.5)
    thickness: float = spread(0.014, 0.050)
    drop: float = spread(-0.02, 0.05)
    colour: RGB = (0, 0, 0)


@dataclass(frozen=True)
class Identity:
    """Hold one person in one look."""

    number: int
    head: Head
    eyes: Eyes
    brows: Brows
    nose: Nose
    mouth: Mouth
    skin: Skin
    hair: Hair
    beard: str
    beard_strength: float
    brow_colour: RGB
    glasses: Glasses | None


def mix(table: tuple[RGB, ...], position: float) -> RGB:
    """Interpolate linearly in a table of colours; position in [0, len - 1]."""
    low = min(int(position), len(table) - 2)
    weight = position - low
    red, green, blue = (float((1 - weight) * a + weight * b) for a, b in zip(table[low], table[low + 1], strict=True))
    return red, green, blue


def shifted(colour: RGB, amount: float, rng: np.random.Generator) -> RGB:
    """Vary a colour by a factor per channel of up to `amount`."""
    factors = rng.uniform(1 - amount, 1 + amount, 3)
    red, green, blue = (float(min(c * f, 255)) for c, f in zip(colour, factors, strict=True))
    return red, green, blue


def draw_skin(rng: np.random.Generator) -> Skin:
    """Draw a skin tone, up to three moles and perhaps freckles."""
    colour = shifted(mix(SKIN_TONES, rng.uniform(0, len(SKIN_TONES) - 1)), 0.055, rng)
    count = int(rng.choice(4, p=(0.45, 0.3, 0.15, 0.1)))
    marks = tuple(
        (float(rng.uniform(-0.45, 0.45)), float(rng.uniform(-0.5, 0.75)), float(rng.uniform(0.011, 0.024)))
        for _ in range(count)
    )
    freckles = ()
    if rng.random() < 0.15:
        freckles = tuple((float(x), float(y)) for x, y in rng.normal(0, 1, (80, 2)) * (0.32, 0.14) + (0, 0.24))
    return draw(Skin, rng, colour=colour, marks=marks, freckles=freckles)


def draw_hair(rng: np.random.Generator, skin: RGB) -> Hair:
    """Draw a hair style and colour; very dark skin comes with dark hair more often."""
    colour = HAIR_COLOURS[int(rng.choice(len(HAIR_COLOURS), p=HAIR_WEIGHTS))]
    if sum(skin) < 330 and rng.random() < 0.8:
        colour = HAIR_COLOURS[int(rng.integers(0, 2))]
    style = str(rng.choice(HAIR_STYLES, p=STYLE_WEIGHTS))
    return draw(Hair, rng, style=style, colour=shifted(colour, 0.09, rng))


def draw_identity(rng: np.random.Generator, number: int) -> Identity:
    """Draw a person."""
    skin = draw_skin(rng)
    hair = draw_hair(rng, skin.colour)
    glasses = draw(Glasses, rng, colour=FRAME_COLOURS[int(rng.integers(len(FRAME_COLOURS)))])
    wears_glasses = rng.random() < 0.25
    beard = str(rng.choice(BEARDS, p=BEARD_WEIGHTS))
    if hair.style in ("long", "bob") and beard != "none" and rng.random() < 0.8:
        beard = "none"
    return Identity(
        number=number,
        head=draw(Head, rng),
        eyes=draw(Eyes, rng, iris=shifted(IRIS_COLOURS[int(rng.integers(len(IRIS_COLOURS)))], 0.15, rng)),
        brows=draw(Brows, rng),
        nose=draw(Nose, rng),
        mouth=draw(Mouth, rng, colour=LIP_COLOURS[int(rng.integers(len(LIP_COLOURS)))]),
        skin=skin,
        hair=hair,
        beard=beard,
        beard_strength=float(rng.uniform(0.55, 0.95)),
        brow_colour=hair.colour,
        glasses=glasses if wears_glasses else None,
    )


def second_look(who: Identity, rng: np.random.Generator) -> Identity:
    """Return the same person on another day: another haircut or a cap, the beard trimmed, perhaps lipstick."""
    hair = replace(draw_hair(rng, who.skin.colour), colour=shifted(who.hair.colour, 0.12, rng))
    if rng.random() < 0.3:
        hair = replace(hair, style="cap", colour=tuple(float(v) for v in rng.uniform(20, 220, 3)))
    elif who.hair.style == "bald" or rng.random() < 0.3:
        hair = replace(hair, style=who.hair.style)
    beard, strength = who.beard, who.beard_strength
    if beard != "none" and rng.random() < 0.5:
        beard, strength = ("stubble", strength) if rng.random() < 0.6 else ("none", strength)
    mouth = replace(who.mouth, colour=LIP_COLOURS[int(rng.integers(len(LIP_COLOURS)))])
    return replace(who, hair=hair, beard=beard, beard_strength=strength, mouth=mouth)


def draw_looks(seed: int, number: int) -> tuple[Identity, Identity]:
    """Draw the person with this number in two looks; the first is the usual one.

    Image numbers start at 1, so [seed, number], which equals [seed, number, 0], is a stream of its own.
    """
    rng = np.random.default_rng([seed, number])
    usual = draw_identity(rng, number)
    return usual, second_look(usual, rng)
