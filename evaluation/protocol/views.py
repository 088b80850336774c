"""Which crops are seen: aligned ones, and those of the misalignment protocol.

The paper does not say how its misaligned samples were made, so this protocol is defined here. For p > 0 each landmark
coordinate moves by U[-p, p] in pixels of the 112x112 template, mapped back into the source image. The draw belongs to
(seed, image name): the same for every model, order and batch, and for two p the same up to its scale. `quality`
perturbs what the quality methods see; `both` also what the recognition model sees, whose threshold is then set on its
own non-mated scores. A second landmark file stands for another detector. Figures for p are means over seeds.
A crop that reaches beyond its image shows black there, unless `border` fills it; how far crops reach is tabulated.
"""

from typing import NamedTuple

from utils.config.evaluate import MisalignmentConfig


class View(NamedTuple):
    """Say how crops are cut; p is None for the second landmark file. border: what p > 0 shows outside an image."""

    p: float | None = 0.0
    seed: int | None = None
    border: str = "black"

    @property
    def alignment(self) -> str:
        """Return the first word of the condition's name."""
        return "aligned" if self.p == 0 else "second_landmarks" if self.p is None else "misaligned"

    @property
    def label(self) -> str:
        """Name the view in messages and files."""
        return self.alignment if self.seed is None else f"{self.alignment}_p{self.p:g}_seed{self.seed}"


ALIGNED = View()


def misaligned_views(cfg: MisalignmentConfig | None, dataset: str) -> list[list[View]]:
    """Return the conditions beside the aligned one, each as the views that are averaged over."""
    if cfg is None:
        return []
    views = [[View(p, seed, cfg.border) for seed in cfg.seeds] for p in sorted(set(cfg.p)) if p > 0]
    return views + ([[View(None)]] if dataset in cfg.second_landmarks else [])
