"""Schema of the rendered faces (prepare.py, mode synthetic)."""

from typing import Annotated

from pydantic import Field, model_validator

from utils.config.loading import StrictModel

Share = Annotated[float, Field(ge=0, le=1)]
LARGEST_POPULATION = 100_000
"""Identity numbers of a population start at its place times this, so that populations never share a person."""


class PopulationConfig(StrictModel):
    """One folder of rendered people."""

    identities: int = Field(gt=0, le=LARGEST_POPULATION)
    """People; each gets a folder id_NNNNNN."""
    images: int = Field(gt=0, le=9999)
    """Images of each person."""
    clean: Share = 0.5
    """Share of the images taken under good conditions."""
    single: Share = 0.25
    """Share of the images with one nuisance varied over its whole range; the rest has one to three at once."""
    pairs: int = Field(default=1000, ge=0)
    """Mated pairs, and as many non-mated ones, in each of pairs.txt (all images) and pairs_clean.txt."""

    @model_validator(mode="after")
    def _shares_fit(self) -> "PopulationConfig":
        if self.clean + self.single > 1:
            raise ValueError("clean + single must not be above 1")
        return self


class SyntheticConfig(StrictModel):
    """Rendered faces with identities, exact landmarks and known nuisance."""

    seed: int = Field(default=42069, ge=0)
    """The same seed gives the same bytes, whatever the number of processes (OpenCV version kept)."""
    size_px: int = Field(default=160, ge=64, le=1024)
    """Side of the images; the eyes are about 0.21 of it apart."""
    processes: int = Field(default=0, ge=0)
    """0: one for each core."""
    train: PopulationConfig | None = PopulationConfig(identities=800, images=24)
    """People to train on."""
    selection: PopulationConfig | None = PopulationConfig(identities=100, images=20)
    """People to choose settings on; null leaves them out."""
    test: PopulationConfig | None = PopulationConfig(identities=150, images=20, clean=0.3, single=0.5)
    """People nothing is chosen on."""
