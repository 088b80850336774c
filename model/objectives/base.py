"""What the training loop asks of a method; a hook that a method does not need does nothing."""

from collections.abc import Mapping
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from torch import Tensor, nn

from model.registry import NetworkBuilder
from utils.config.sections import ModelConfig
from utils.config.train import LossConfig, TrainConfig
from utils.contract import InputContract
from utils.errors import ConfigError
from utils.training.batches import TrainingBatch
from utils.training.precision import Precision


class StartingRun(Protocol):
    """What a hook may use of a run that is about to take its first step."""

    cfg: Any
    """The training configuration of the method."""
    contract: InputContract
    data: Any
    """What `attach` was given."""
    precision: Precision

    @property
    def talks(self) -> bool:
        """Tell whether this process shows progress."""
        ...


Batch = TypeVar("Batch", bound=TrainingBatch)


class Objective(nn.Module, Generic[Batch]):
    """Networks and loss terms of a method.

    Calling it with a batch on the device gives a NamedTuple of loss terms; their sum, weighted by `factors`, is
    differentiated and the same names appear in the log. `student` is what is averaged, validated and saved.
    """

    terms: ClassVar[Any]
    """The class of the loss terms, a NamedTuple of tensors."""
    weights: ClassVar[tuple[float, ...]]
    """The method's own factor of each term, unless the configuration names others."""
    largest_loss = 1e6
    """Beyond it a run has diverged: targets and cosines are of the order of 1, raw labels of a source below 1,000."""

    def __init__(self, student: nn.Module, loss: LossConfig, contract: InputContract):
        super().__init__()
        self.student, self.contract = student, contract
        self.factors = tuple(self.weights if loss.weights is None else loss.weights)
        if len(self.factors) != len(self.weights):
            names = ", ".join(self.terms._fields)
            raise ConfigError(f"loss.weights: this method has {len(self.weights)} terms ({names}), one factor each")
        if not any(self.factors):
            raise ConfigError("loss.weights: every factor is 0, which trains nothing; give one term a factor above 0")
        self.notes: list[str] = []
        """Lines for the reader of the log."""

    @classmethod
    def from_config(
        cls, cfg: TrainConfig, model_cfg: ModelConfig, builder: NetworkBuilder, contract: InputContract
    ) -> "Objective":
        """Build networks with their weights and the loss terms, on the CPU."""
        raise NotImplementedError

    def attach(self, data: Any) -> None:
        """Add what depends on the data; comes before the optimiser exists and before anything is written."""

    def before_first_step(self, run: StartingRun) -> None:
        """Compute what the steps need; comes after the resume point is restored. `kept` is what a resumed run has."""

    def parts(self) -> dict[str, nn.Module]:
        """Return the trainable parts by the names that the optimiser's groups give them."""
        raise NotImplementedError

    def kept(self) -> dict[str, nn.Module]:
        """Return what a resumed run needs beside the parts."""
        return {}

    def compile_networks(self) -> None:
        """Compile the student in place; names in the state_dict stay."""
        self.student.compile()

    def published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state_dict of the student under the names it is saved with."""
        return dict(state)

    def measure(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return per-sample values (B, ...) of one validation batch for `network`, a copy of the student."""
        return {}

    def summarise(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Turn the values of the whole validation set into metrics; `selection` is lower = better."""
        return {}
