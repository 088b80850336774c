"""Which crops are seen: aligned ones, and those of the misalignment protocol.

The paper does not say how its misaligned samples were made, so this protocol is defined here. For p > 0 each landmark
coordinate moves by U[-p, p] in pixels of the 112x112 template, mapped back into the source image. The draw belongs to
(seed, image name): the same for every model, order and batch, and for two p the same up to its scale. `quality`
perturbs what the quality methods see; `both` also what the recognition model sees, whose threshold is then set on its
own non-mated scores. A second landmark file stands for another detector, and `box` for a procedure that aligns
nothing: the square about the detector's box, resized. Figures for p are means over seeds.
A crop that reaches beyond its image shows black there, unless `border` fills it; how far crops reach is tabulated.
"""

from typing import Any, NamedTuple

from data.samples.crops import CropPerturbation
from utils.config.evaluating.misalignment import MisalignmentConfig, misaligned_key
from utils.config.sections import ViewsConfig


class Averaging(NamedTuple):
    """Say how a method looks at a face several times: `count` times, at landmarks that are moved once more."""

    count: int
    perturbation: ViewsConfig
    seed: int

    def moved(self, number: int, border: str | None = None) -> CropPerturbation:
        """Return the perturbation of one of the looks, counted from 1; `border` instead of its own."""
        how = self.perturbation
        return CropPerturbation(how.radius_px, how.unit, self.seed, border or how.border, number)


class View(NamedTuple):
    """Say how crops are cut; p is None for another detector. border: what p > 0 shows outside an image."""

    p: float | None = 0.0
    seed: int | None = None
    border: str = "black"
    box: float | None = None
    """Side of the square crop about the detector's box, as a multiple of the longer side of the box."""
    look: CropPerturbation | None = None
    """Moves the landmarks of this view once more, for a method that averages over several looks."""

    @property
    def alignment(self) -> str:
        """Return the first word of the condition's name."""
        if self.p is None:
            return "second_landmarks" if self.box is None else "box"
        return "aligned" if self.p == 0 else "misaligned"

    @property
    def key(self) -> str:
        """Name the view as files of its numbers and folders of its crops do."""
        return self.alignment if not self.p or self.seed is None else misaligned_key(self.p, self.seed)

    @property
    def label(self) -> str:
        """Name the view in messages and files."""
        name = self.alignment if self.seed is None else f"{self.alignment}_p{self.p:g}_seed{self.seed}"
        return name if self.look is None else f"{name}_view{self.look.view}"

    @property
    def perturbation(self) -> CropPerturbation | None:
        """Return how the landmarks move; None: not at all."""
        if not self.p or self.seed is None:
            return self.look
        return CropPerturbation(self.p, "template", self.seed, self.border, then=self.look)

    def look_at(self, averaging: Averaging, number: int) -> "View":
        """Return one of the looks at this view, counted from 1."""
        return self._replace(look=averaging.moved(number, self.border if self.p else None))

    @property
    def facts(self) -> list[Any]:
        """Return all that decides the crops beside images and landmarks, as JSON values."""
        looked = [] if self.look is None else [[self.look.radius_px, self.look.unit, self.look.seed, self.look.border]]
        number = [] if self.look is None else [self.look.view]
        return [self.p, self.seed, self.border, *([] if self.box is None else [self.box]), *looked, *number]


ALIGNED = View()


def misaligned_views(cfg: MisalignmentConfig | None, dataset: str) -> list[list[View]]:
    """Return the conditions beside the aligned one, each as the views that are averaged over."""
    if cfg is None:
        return []
    views = [[View(p, seed, cfg.border) for seed in cfg.seeds] for p in sorted(set(cfg.p)) if p > 0]
    views += [[View(None)]] if dataset in cfg.second_landmarks else []
    return views + ([[View(None, box=cfg.box)]] if cfg.box is not None else [])
