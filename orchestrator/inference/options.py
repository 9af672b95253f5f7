"""How it is predicted, and what is written beside the label maps."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from orchestrator.errors import ConfigError
from orchestrator.inference.models import WindowSettings, check_step

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictOptions:
    """How it is predicted; raises ConfigError for what cannot be."""

    device: Device = "cpu"
    tile_step_size: float | None = None
    """Step of the sliding window; that of the model unless given."""
    mirrors: bool | None = None
    """Whether predictions are averaged over mirrored images; as the model did unless given."""
    max_memory_gib: float | None = None
    """Cases that would take more fail, and say so."""
    num_threads: int | None = None
    """That torch computes with; unless given, what it finds."""
    structures: tuple[str, ...] = ()
    """Those that the label maps keep; all unless given."""
    save_probabilities: bool = False
    """Whether probabilities are written as nnU-Net does."""
    study: str | None = None
    """Study file beside which `tables.yaml` has codes of structures, and values that are derived of them."""
    overlays: bool = False
    """Whether pictures of the label maps are drawn."""
    dicom_seg: bool = False
    """Whether label maps of DICOM series are written as DICOM Segmentation, too."""
    dicom_rtstruct: bool = False
    """Whether they are written as contours (DICOM RT Structure Set), too."""

    def __post_init__(self) -> None:
        if self.device not in get_args(Device):
            raise ConfigError(f"device {self.device!r}; expected {' or '.join(get_args(Device))}")
        if self.tile_step_size is not None:
            check_step(self.tile_step_size, where="step")
        limit = self.max_memory_gib
        if limit is not None and not (isinstance(limit, int | float) and limit > 0):
            raise ConfigError(f"a most of {limit!r} GiB of memory; expected a number above 0")

    def settings(self, of_model: WindowSettings) -> WindowSettings:
        """Return what is asked for, and what the model does where nothing is."""
        return replace(
            of_model,
            tile_step_size=self.tile_step_size or of_model.tile_step_size,
            mirrors=of_model.mirrors if self.mirrors is None else self.mirrors,
        )
