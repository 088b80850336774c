"""A frozen network in torch."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from model.ai_kd import WrapperModel
from model.frozen.base import Answer, FrozenNetwork
from model.frozen.fold import fold_batchnorm
from model.frozen.preprocess import normalise
from utils.contract import InputContract
from utils.errors import UserError

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
CPU_IMAGES_PER_THREAD = 8
"""A CPU network takes batches in pieces of so many images: activations stay in its caches."""


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
        self.module = module.to(device, memory_format=torch.channels_last)
        self.contract, self.device, self.precision = contract, device, precision
        self.taps: set[str] = set()
        if device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    @property
    def backbone(self) -> nn.Module:
        """Return the part that gives embeddings."""
        return self.module.feature_extractor if isinstance(self.module, WrapperModel) else self.module

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
        size = len(images_BHW3) if self.device.type != "cpu" else CPU_IMAGES_PER_THREAD * torch.get_num_threads()
        try:
            parts = [self.forward(piece) for piece in images_BHW3.split(size)]
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{self.device}: {len(images_BHW3)} images at once do not fit into its memory; "
                "lower dataloader.params.batch_size and run again to go on"
            ) from error
        quality_B = None if parts[0].quality is None else torch.cat([part.quality for part in parts])
        taps = {name: torch.cat([part.taps[name] for part in parts]) for name in self.taps}
        return Answer(torch.cat([part.embedding for part in parts]), quality_B, taps)

    def forward(self, images_BHW3: Tensor) -> Answer:
        """Answer in one pass."""
        seen: dict[str, Tensor] = {}
        record = {name: lambda _, inputs, name=name: seen.update({name: inputs[0]}) for name in self.taps}
        with before(self.backbone, record), self.autocast():
            output = self.module(self.prepare(images_BHW3))
        quality_B = output[1].float() if isinstance(self.module, WrapperModel) else None
        return Answer(first_output(output).float(), quality_B, seen)

    def prepare(self, images_BHW3: Tensor) -> Tensor:
        """Turn uint8 crops into network input (B, 3, S, S) on the device."""
        return normalise(images_BHW3, self.contract, self.device)

    def embed(self, x_BCHW: Tensor, behind: nn.Module | None = None) -> Tensor:
        """Map network input, or what a tail of the network (`behind`) takes, to embeddings (B, D) float32.

        Gradients are allowed.
        """
        with self.autocast():
            return first_output((behind or self.backbone)(x_BCHW)).float()

    def blank(self, count: int) -> Tensor:
        """Return `count` grey inputs, for passes that only look at the network."""
        return torch.zeros(count, 3, self.contract.size_px, self.contract.size_px, device=self.device)

    def autocast(self) -> contextlib.AbstractContextManager:
        """Return the context of the network's precision."""
        dtype = DTYPES[self.precision]
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
