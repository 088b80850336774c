"""Pictures that cost a decoder what photographs cost."""

from pathlib import Path

import cv2
import numpy as np

QUALITY, SLOPE = 90, 1.5


def write_picture(path: Path, shape: tuple[int, int], rng: np.random.Generator) -> None:
    """Write a JPEG (height, width) with the spectrum of photographs.

    Amplitude falls with frequency ** SLOPE, chosen so that a file has the .33 bytes per pixel of LFW photographs.
    """
    height, width = shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    noise = np.fft.fft2(rng.normal(size=(3, height, width))) / np.maximum(frequency, 1 / width) ** SLOPE
    planes = np.fft.ifft2(noise).real
    planes = planes[:1] + 0.3 * planes[1:].repeat([1, 2], 0)  # colours of a photograph go together
    pixels = np.clip(128 + 45 * planes / planes.std(), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    cv2.imwrite(str(path), pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
