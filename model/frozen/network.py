"""A frozen network only answers: uint8 crops in, embeddings and qualities out. What each is, and its form in torch."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from model.ai_kd import WrapperModel
from model.frozen.bfloat16 import Bfloat16, in_bfloat16
from model.frozen.fold import fold_batchnorm
from utils.contract import InputContract, Reading
from utils.errors import ContractError, UserError, WeightsError

BF16_NETWORK = "bf16, the network itself"
"""The form of a network whose weights are bfloat16; "bf16" is autocast, which casts them at every call."""
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
CPU_IMAGES_PER_THREAD = 8
"""A CPU network takes batches in pieces of so many images: activations stay in its caches."""

_GREY = 127


def cpu_piece() -> int:
    """Return how many images a CPU network takes at a time."""
    return CPU_IMAGES_PER_THREAD * torch.get_num_threads()


class Answer(NamedTuple):
    """What a network says about a batch, on its device, in float32."""

    embedding: Tensor
    """(B, D); D is 0 for a network that gives none."""
    quality: Tensor | None
    """(B,), higher = better; None for a network that gives none."""
    taps: dict[str, Tensor]
    """What the modules named in `tap` were given, (B, ...)."""


class FrozenNetwork:
    """Give embeddings and qualities of aligned crops (B, S, S, 3) uint8 RGB. No gradient reaches the network.

    The numbers of an image depend on the other images of its batch by no more than the rounding of float32.
    """

    name: str
    """What messages call it."""
    contract: InputContract
    device: torch.device
    """Where it computes."""
    remark: str = ""
    """One sentence about weights and preprocessing the user should read once, or nothing."""
    reading: Reading = Reading()
    """Which of its outputs counts, and what its quality is."""
    weight: str | None = None
    """Its file."""
    weights_sha256: str | None = None
    """Of the file's content that was read; another process, as a training, may replace the file at any time."""
    form: str = "fp32"
    """The number format in which it computes, and how."""
    facts: Mapping[str, Any] = MappingProxyType({})
    """JSON values that decide its numbers, beside contract, precision and the bytes of its file."""
    remembers: bool = False
    """Whether the answer to the latest batch is kept, for several methods that ask about the same tensor in turn."""
    _latest: tuple[Tensor, Answer] | None = None

    def run(self, images_BHW3: Tensor) -> Answer:
        """Compute the answer to a batch of at least one crop."""
        raise NotImplementedError

    def __call__(self, images_BHW3: Tensor) -> Answer:
        """Return the answer to a batch, computed once where it is remembered."""
        if not self.remembers:
            return self.run(images_BHW3)
        if self._latest is None or self._latest[0] is not images_BHW3:
            self._latest = images_BHW3, self.run(images_BHW3)
        return self._latest[1]

    def embeddings(self, images_BHW3: Tensor) -> np.ndarray:
        """Return the embeddings (B, D) float32."""
        embedding_BD = self(images_BHW3).embedding
        if not embedding_BD.shape[1]:
            raise WeightsError(f"{self.name}: gives no embedding, only a quality; name a recognition network")
        return embedding_BD.cpu().numpy()

    def qualities(self, images_BHW3: Tensor) -> np.ndarray:
        """Return the qualities (B,) float32, higher = better."""
        if not len(images_BHW3):
            return np.zeros(0, np.float32)
        quality_B = self(images_BHW3).quality
        if quality_B is None:
            raise WeightsError(f"{self.name}: gives no quality; name the weights of a trained quality model")
        return quality_B.cpu().numpy()

    def steady_qualities(self, images_BHW3: Tensor, batch_size: int) -> np.ndarray:
        """Return the qualities (B,), for which it does not matter how many and which other images are in the batch.

        The order in which a kernel sums depends on the number of images, so passes are filled up with grey ones.
        """
        count, size = len(images_BHW3), self.at_once(batch_size)
        if missing := -count % size:
            images_BHW3 = torch.cat([images_BHW3, images_BHW3.new_full((missing, *images_BHW3.shape[1:]), _GREY)])
        parts = [self.qualities(part) for part in images_BHW3.split(size)]
        return np.concatenate([np.zeros(0, np.float32), *parts])[:count]

    def at_once(self, batch_size: int) -> int:
        """Return how many images of a batch of `batch_size` one pass takes."""
        return batch_size


def measured(output_BD: Tensor, reading: Reading, name: str) -> Tensor | None:
    """Return the qualities (B,) that an output of (B, D) or (B,) numbers stands for; None where they have a head."""
    if reading.quality == "head":
        return None
    if reading.quality == "length":
        return output_BD.norm(dim=1)
    if output_BD.numel() != len(output_BD):
        numbers = output_BD[0].numel()
        raise WeightsError(
            f"{name}: its output holds {numbers} numbers per image, a quality is one; name another in output, or set "
            "quality: length"
        )
    return output_BD.flatten()


class TorchNetwork(FrozenNetwork):
    """Answer with a backbone, or with a WrapperModel, a backbone with its quality head."""

    def __init__(
        self,
        module: nn.Module,
        contract: InputContract,
        device: torch.device,
        precision: str = "fp32",
        folded: bool = False,
    ):
        """Move `module` to the device, or with `folded` a copy without BatchNorms behind convolutions.

        fp32 means fp32: TF32 would let an image's numbers depend on its batch and is switched off for the process.
        """
        module = (fold_batchnorm(module) if folded else module).eval().requires_grad_(False)
        self.module = module.to(device).to(memory_format=torch.channels_last)
        self.contract, self.device, self.precision = contract, device, precision
        self.form = self._put_into_bfloat16() if (precision, device.type) == ("bf16", "cpu") else precision
        self.taps: set[str] = set()
        if device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    def _put_into_bfloat16(self) -> str:
        """Put the trunk itself into bfloat16; return the form it then has. The head stays in float32."""
        whole = in_bfloat16(self.trunk, self.contract.size_px)
        if whole is None:
            return self.precision
        self.module = WrapperModel(whole, self.module.quality_head) if isinstance(self.module, WrapperModel) else whole
        return BF16_NETWORK

    @property
    def trunk(self) -> nn.Module:
        """Return what maps network input to embeddings."""
        return self.module.feature_extractor if isinstance(self.module, WrapperModel) else self.module

    @property
    def backbone(self) -> nn.Module:
        """Return the network in the trunk, by whose layers taps are named."""
        return self.trunk.network if isinstance(self.trunk, Bfloat16) else self.trunk

    @property
    def name(self) -> str:
        """Return the class of the backbone."""
        return type(self.backbone).__name__

    def tap(self, name: str) -> None:
        """Have every answer hold what the backbone's module `name` was given."""
        self.taps.add(name)

    @torch.inference_mode()
    def run(self, images_BHW3: Tensor) -> Answer:
        """Compute the answer to a batch, piece by piece."""
        size = len(images_BHW3) if self.device.type != "cpu" else cpu_piece()
        try:
            parts = [self.forward(piece) for piece in images_BHW3.split(size)]
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{self.device}: {len(images_BHW3)} images at once do not fit into its memory; "
                "lower dataloader.params.batch_size and run again to go on"
            ) from error
        qualities = [part.quality for part in parts if part.quality is not None]
        taps = {name: torch.cat([part.taps[name] for part in parts]) for name in self.taps}
        return Answer(torch.cat([part.embedding for part in parts]), torch.cat(qualities) if qualities else None, taps)

    def at_once(self, batch_size: int) -> int:
        """Return how many images of a batch of `batch_size` one pass takes."""
        return batch_size if self.device.type != "cpu" else min(batch_size, cpu_piece())

    def forward(self, images_BHW3: Tensor) -> Answer:
        """Answer in one pass."""
        seen: dict[str, Tensor] = {}
        record = {name: lambda _, inputs, name=name: seen.update({name: inputs[0]}) for name in self.taps}
        with before(self.backbone, record), self.autocast():
            output = self.module(self.prepare(images_BHW3))
        embedding_BD = first_output(output).float()
        if isinstance(self.module, WrapperModel):
            return Answer(embedding_BD, output[1].float(), seen)
        return Answer(embedding_BD, measured(embedding_BD, self.reading, self.name), seen)

    def prepare(self, images_BHW3: Tensor) -> Tensor:
        """Turn uint8 crops into network input (B, 3, S, S) on the device."""
        return normalise(images_BHW3, self.contract, self.device)

    def embed(self, x_BCHW: Tensor, behind: nn.Module | None = None) -> Tensor:
        """Map network input, or what a tail of the network (`behind`) takes, to embeddings (B, D) float32.

        Gradients are allowed.
        """
        with self.autocast():
            return first_output((behind or self.trunk)(x_BCHW)).float()

    def blank(self, count: int) -> Tensor:
        """Return `count` grey inputs, for passes that only look at the network."""
        return torch.zeros(count, 3, self.contract.size_px, self.contract.size_px, device=self.device)

    def autocast(self) -> contextlib.AbstractContextManager:
        """Return the context of the network's precision."""
        dtype = DTYPES[self.precision] if self.form == self.precision else None
        return contextlib.nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)


def first_output(output: Any) -> Tensor:
    """Return the embedding, the first of several outputs."""
    return output[0] if isinstance(output, tuple | list) else output


@contextlib.contextmanager
def before(module: nn.Module, hooks: Mapping[str, Callable]) -> Iterator[None]:
    """Call hooks before the named submodules run, and leave none behind."""
    handles = [module.get_submodule(name).register_forward_pre_hook(hook) for name, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
