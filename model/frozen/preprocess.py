"""The one place where uint8 crops become network input."""

import torch
from torch import Tensor

from utils.contract import InputContract
from utils.errors import ContractError


def normalise(images_BHW3: Tensor, contract: InputContract, device: torch.device | str | None = None) -> Tensor:
    """Move uint8 RGB crops to `device` (None: stay where they are) and scale them there as (pixel / 255 - mean) / std.

    Convention: in (B, S, S, 3) uint8 RGB; out (B, 3, S, S) float32, channels_last, in the contract's channel order.
    mean and std belong to the channels in that order. The arithmetic is torchvision's ToTensor + Normalize, bit for
    bit. Raises ContractError when the crops have another size.
    """
    images_BHW3 = checked_crops(images_BHW3, contract)
    images = images_BHW3 if device is None else images_BHW3.to(device, non_blocking=True)
    if contract.channels == "BGR":
        images = images.flip(-1)
    elif contract.channels != "RGB":
        raise ContractError(f"channel order {contract.channels!r} is not known; use RGB or BGR")
    x = images.permute(0, 3, 1, 2).to(torch.float32).div_(255)
    if len(set(contract.mean)) == 1 and len(set(contract.std)) == 1:
        return x.sub_(contract.mean[0]).div_(contract.std[0])
    for channel, (mean, std) in enumerate(zip(contract.mean, contract.std, strict=True)):  # numbers need no copy
        x[:, channel].sub_(mean).div_(std)
    return x


def checked_crops(images_BHW3: Tensor, contract: InputContract) -> Tensor:
    """Return the crops as they are; ContractError when the contract asks for other ones."""
    size = contract.size_px
    if images_BHW3.dtype != torch.uint8 or images_BHW3.shape[1:] != (size, size, 3):
        raise ContractError(
            f"crops of shape {tuple(images_BHW3.shape)} ({images_BHW3.dtype}) reached a network that takes uint8 crops "
            f"of {size}x{size}x3; align or resize them to {size}x{size}"
        )
    return images_BHW3
