"""What a JPEG's header says, its pixels, and what libjpeg has to say about them.

libjpeg decodes whatever is there, prints a warning, and fills the rest with grey. cv2 and Pillow do not tell of
warnings, so they are taken from where they are printed.
"""

import re
import struct
from typing import NamedTuple

import cv2
import numpy as np

from data.images.silence import native_silence

SOI = b"\xff\xd8\xff"
"""How a JPEG begins."""
EOI = b"\xff\xd9"
"""How a JPEG ends."""
EXTRANEOUS = "extraneous bytes"
_SCAN = b"\xff\xda"
_READ_RGB = getattr(cv2, "IMREAD_COLOR_RGB", None)
_DAMAGE = re.compile(r"^Corrupt JPEG data: (.*)|^(Premature end of JPEG file|Inconsistent progression.*)", re.M)


class JpegHeader(NamedTuple):
    """What the segments before the first scan say, and the scans."""

    width: int
    height: int
    scans: int
    """How often the decoder goes over all pixels."""
    plain: bool
    """8 bit, grey or YCbCr: what cv2 decodes right."""
    ended: bool
    """An end marker stands behind the first scan."""
    complete: bool
    """The scans together hold every bit of every coefficient, so that none is missing as a whole."""
    exif: bytes | None


def read_header(data: bytes) -> JpegHeader | None:
    """Walk the segments up to the first scan; None when they do not make sense."""
    at, size, exif = 2, len(data), None
    frame, progressive, parts = None, False, b""
    while at + 4 <= size and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        length = data[at + 2] << 8 | data[at + 3]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and at + 10 <= size:
            frame = struct.unpack_from(">BHHB", data, at + 4)
            progressive = marker in (0xC2, 0xCA)
        elif marker == 0xE1 and exif is None and data[at + 4 : at + 10] == b"Exif\0\0":
            exif = data[at + 4 : at + 2 + length]
        elif marker == 0xDA:
            parts = data[at + 4 : at + 5]
            break
        at += 2 + length
    else:
        return None
    if frame is None:
        return None
    bits, height, width, components = frame
    whole = not progressive and parts == bytes([components])
    scans = 1 if whole else data.count(_SCAN, at)
    plain, ended = bits == 8 and components in (1, 3), data.rfind(EOI, at) >= 0
    return JpegHeader(width, height, scans, plain, ended, whole or ended or _hold_all(data, at, components), exif)


def _hold_all(data: bytes, at: int, components: int) -> bool:
    """Tell whether the scans from a place on hold all bits of the 64 coefficients of all components."""
    lowest: dict[int, list[int]] = {}
    while at >= 0:
        count = data[at + 4] if at + 4 < len(data) else 0
        head = data[at + 5 : at + 8 + 2 * count]
        if len(head) < 3 + 2 * count:
            return False
        first, last, bits = head[-3:]
        for component in head[: 2 * count : 2]:
            shifts = lowest.setdefault(component, [16] * 64)
            shifts[first : last + 1] = [bits & 15] * (last + 1 - first)
        at = data.find(_SCAN, at + 2)
    return len(lowest) == components and not any(any(shifts) for shifts in lowest.values())


def decode_listening(data: bytes) -> tuple[np.ndarray | None, str]:
    """Decode with cv2; return RGB pixels as they are stored, or None, and what libjpeg said about this file."""
    with native_silence:
        image = _decode(data)
        said = native_silence.heard()  # of any thread
    if said:
        with native_silence.alone():
            _decode(data)
            said = native_silence.heard()
        if said and damage(said) is None:  # only the first warning is printed: leave out what else it can be about
            with native_silence.alone():
                _decode(_without_application_segments(data))
                said = native_silence.heard()
    return image, said


def damage(said: str) -> str | None:
    """Return the first warning that says that pixels are wrong or missing."""
    found = _DAMAGE.search(said)
    return None if found is None else found[1] or found[2]


def _decode(data: bytes) -> np.ndarray | None:
    flags = cv2.IMREAD_COLOR if _READ_RGB is None else _READ_RGB
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if _READ_RGB is None and image is not None else image


def _without_application_segments(data: bytes) -> bytes:
    """Leave out the segments before the first scan that no decoding needs; other colours come out."""
    kept, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        end = at + 2 + (data[at + 2] << 8 | data[at + 3])
        if not 0xE0 <= data[at + 1] <= 0xEF:
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])
