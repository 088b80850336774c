"""A trial: both crops of a batch from one flat buffer of decoded bytes, by gathering, on any device.

A worker would then only decode. The images of a batch differ in size, so there is no (B, H, W, 3) array of them
without padding; a flat buffer with the place of each image needs none.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.alignment import CROP_SIZE_PX


class FlatBatch(NamedTuple):
    """Decoded images one after the other, and the transforms of the crops to be cut out of them."""

    pixels: Tensor
    """(bytes,) uint8, RGB, row by row, image by image."""
    start: Tensor
    """(B,) int64, the first byte of each image."""
    size: Tensor
    """(B, 2) int64, height and width."""
    matrices: Tensor
    """(K, B, 2, 3) float64, source -> crop, for K crops of each image."""

    @classmethod
    def of(cls, images: list[np.ndarray], matrices: np.ndarray) -> "FlatBatch":
        """Join images (H, W, 3) uint8."""
        size = np.array([image.shape[:2] for image in images])
        start = np.concatenate([[0], np.cumsum(3 * size.prod(1))[:-1]])
        pixels = np.concatenate([image.reshape(-1) for image in images])
        return cls(*(torch.from_numpy(array) for array in (pixels, start, size, matrices)))


def gather_crops(batch: FlatBatch, size_px: int = CROP_SIZE_PX) -> Tensor:
    """Cut the crops (K, B, size, size, 3) uint8: bilinear, black outside the image, as cv2.warpAffine does.

    Convention: pixel centres at integers. Positions are float64 until they are split into pixel and fraction.
    """
    device = batch.pixels.device
    x, y = _positions(batch.matrices, size_px)
    left, top = x.floor(), y.floor()
    across, down = (x - left).float(), (y - top).float()
    height, width = (batch.size[:, axis, None, None] for axis in (0, 1))
    start = batch.start[:, None, None]
    channel = torch.arange(3, device=device)
    crops = torch.zeros(*x.shape, 3, device=device)
    for row, vertical in ((top.long(), 1 - down), (top.long() + 1, down)):
        for column, horizontal in ((left.long(), 1 - across), (left.long() + 1, across)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            place = torch.where(inside, start + 3 * (row * width + column), 0)
            weight = torch.where(inside, vertical * horizontal, 0)
            crops += weight[..., None] * batch.pixels[place[..., None] + channel]
    return crops.round_().clamp_(0, 255).to(torch.uint8)


def _positions(matrices_KB23: Tensor, size_px: int) -> tuple[Tensor, Tensor]:
    """Return where each pixel of the crops lies in its image: x and y, (K, B, size, size) float64."""
    linear, shift = matrices_KB23[..., :2], matrices_KB23[..., 2:]
    inverse = torch.linalg.inv_ex(linear).inverse  # inv would wait for the device to see whether it could
    shift = -inverse @ shift
    grid = torch.arange(size_px, device=matrices_KB23.device, dtype=torch.float64)
    u, v = grid[None, :], grid[:, None]
    a = inverse[..., None, None]
    x = a[..., 0, 0, :, :] * u + a[..., 0, 1, :, :] * v + shift[..., 0, :, None]
    y = a[..., 1, 0, :, :] * u + a[..., 1, 1, :, :] * v + shift[..., 1, :, None]
    return x, y
