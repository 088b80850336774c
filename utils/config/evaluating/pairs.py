"""One data set of an evaluation: its images, and which of them are compared."""

from typing import Literal

from pydantic import PositiveInt, model_validator

from utils.config.loading import UserPath
from utils.config.sections import DetectionConfig, ImageInputConfig


class PairsConfig(ImageInputConfig, DetectionConfig):
    """One data set: its images and which of them are compared."""

    root: UserPath | None = None
    """Folder of images, or a file that holds them; may be left out when embeddings and scores are files."""
    pairs: UserPath | None = None
    """Pairs file or protocol folder; not needed with format: identities."""
    format: Literal[
        "list", "lfw", "cfp_fp", "cfp_ff", "cplfw", "calfw", "adience", "bin", "dasec", "identities", "reference_probe"
    ] = "list"
    """Layout of `pairs`; identities: pairs are drawn from one folder per identity; reference_probe: every reference
    with every probe of the person, and `non_mated` others."""
    reference: UserPath | None = None
    """reference_probe: list of the reference images, one in each line."""
    probe: UserPath | None = None
    """reference_probe: list of the probe images."""
    threshold_from: str | None = None
    """Data set, listed before this one, whose thresholds count here too; null: those of its own non-mated pairs."""
    input: Literal["aligned", "landmarks", "detect"] | None = None
    """What `root` holds; null: photographs where `landmarks` or `detector` is given, else aligned crops."""
    landmarks: UserPath | None = None
    """Landmark file of `root`; null: the images are aligned crops, or `detector` finds their faces."""
    metadata: UserPath | None = None
    """CSV with `path` and known nuisance values, to correlate scores with; prepare.py writes one of rendered faces."""
    key_root: str | None = None
    """Prefix to strip from names in pairs, landmarks and scores; null: found automatically."""
    identity: str = "parent"
    """With format: identities or reference_probe, who is on an image: parent (the folder), top (the first folder), a
    table NAME,IDENTITY (.csv, .tsv), or a regular expression whose first group in the name is the identity."""
    mated_per_identity: PositiveInt = 50
    """identities, adience: at most this many mated pairs of one identity."""
    non_mated: PositiveInt = 100_000
    """identities, adience, reference_probe: number of non-mated pairs."""

    @property
    def draws_pairs(self) -> bool:
        """Tell whether pairs are drawn from identities instead of read."""
        return self.format in ("identities", "adience", "reference_probe")

    @model_validator(mode="after")
    def _check(self) -> "PairsConfig":
        drawn = self.format in ("identities", "reference_probe")
        if not drawn and self.pairs is None:
            raise ValueError(f"pairs is needed with format: {self.format}; name the pairs file")
        if drawn and self.pairs is not None:
            raise ValueError(f"format: {self.format} makes its own pairs; remove pairs or name its format")
        for key in ("reference", "probe"):
            if (getattr(self, key) is not None) != (self.format == "reference_probe"):
                raise ValueError(f"{key} goes with format: reference_probe, which needs both lists")
        if self.root is None and (self.landmarks is not None or self.detector is not None):
            raise ValueError("landmarks and detector need root, the folder of the images")
        if self.landmarks is not None and self.detector is not None:
            raise ValueError("landmarks and detector: give one of them")
        meant = "landmarks" if self.landmarks is not None else "detect" if self.detector is not None else "aligned"
        if self.input not in (None, meant):
            needs = {
                "landmarks": "landmarks, a file",
                "detect": "detector",
                "aligned": "neither landmarks nor detector",
            }
            raise ValueError(f"input: {self.input} needs {needs[self.input]}")
        if self.faces == "all":
            raise ValueError("faces: a pair compares one face of each image; use largest or central")
        return self
