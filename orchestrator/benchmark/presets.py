"""How much is trained: from a miniature on two CPU cores to the paper's own schedule."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.errors import ConfigError

NNUNET_MEMORY_GIB = 8.0
"""Of a GPU, that nnU-Net's default planner plans for."""
NNUNETS_OWN = {
    "gpu_memory_gib": NNUNET_MEMORY_GIB,
    "initial_learning_rate": 1e-2,
    "oversample_foreground": 0.33,
}
"""What fields of a preset that are None keep, where planner and trainer are nnU-Net's default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """One size of a study; `paper` changes nothing of nnU-Net's defaults."""

    name: str
    """Given with `--preset`."""
    num_epochs: int
    """Epochs of each training."""
    num_iterations_per_epoch: int
    """Training iterations in an epoch."""
    num_val_iterations_per_epoch: int
    """Validation iterations in an epoch (monitoring only: the final checkpoint is evaluated)."""
    checkpoint_every_s: float
    """Seconds between two checkpoints: the most that a lost machine costs; 0 saves one after every iteration."""
    expected_s_per_iteration: float
    """Rough seconds of a training iteration: on an A100, or on one CPU core if the preset is meant for those."""
    gpu_memory_gib: float | None = None
    """Most memory of a plan by nnU-Net's own estimate, which its planner keeps to; None keeps the planner's own: 8 of
    the default, 24 of ResEnc L."""
    optimizer: Literal["nnunet", "adamw"] = "nnunet"
    """`nnunet` is the trainer's own: SGD with Nesterov momentum 0.99 and polynomial decay of nnU-Net's."""
    initial_learning_rate: float | None = None
    """At the first iteration; None keeps the trainer's own, 0.01 of nnU-Net's."""
    mirror_axes: tuple[int, ...] | None = None
    """Axes of (z, y, x) that augmentation mirrors; None keeps nnU-Net's choice (all)."""
    mirror_at_prediction: bool = True
    """Average predictions over mirrored inputs."""
    tile_step_size: float = 0.5
    """Step of the sliding window as a share of the patch."""
    base_num_features: int | None = None
    """Feature maps of the first stage; None keeps nnU-Net's 32."""
    max_num_features: int | None = None
    """Most feature maps of a stage; None keeps nnU-Net's limits."""
    num_convs_per_stage: int | None = None
    """Convolutions of each stage; None keeps nnU-Net's 2."""
    max_patch_voxels: int | None = None
    """Upper limit of voxels of a patch; None keeps nnU-Net's choice."""
    oversample_foreground: float | None = None
    """Share of the patches of a batch that must hold foreground; None keeps the trainer's own, 0.33 of nnU-Net's."""
    augmentation: Literal["kernels", "nnunet"] = "kernels"
    """Who augments: our kernels, which draw as nnU-Net does and need less CPU, or nnU-Net's own pipeline."""
    case_limits: Mapping[str, int] = field(default_factory=dict)
    """Most cases of each part of a training, `train`, `val` and `test`; others are left out, evenly."""
    phantom_spacing_mm: float | None = None
    """In-plane spacing of generated phantoms; None is full resolution."""

    def __post_init__(self) -> None:
        for name, least in {"num_epochs": 1, "num_iterations_per_epoch": 1, "checkpoint_every_s": 0}.items():
            if getattr(self, name) < least:
                raise ConfigError(f"preset {self.name}: {name} is {getattr(self, name)}; expected at least {least}")

    @property
    def is_for_cpus(self) -> bool:
        """Whether its network is small enough for CPU cores: it has fewer features than nnU-Net's."""
        return self.base_num_features is not None

    @property
    def expected_training_s(self) -> float:
        """Rough seconds of one training."""
        return self.num_epochs * self.num_iterations_per_epoch * self.expected_s_per_iteration


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="smoke",
            num_epochs=6,
            num_iterations_per_epoch=28,
            num_val_iterations_per_epoch=2,
            expected_s_per_iteration=0.05,
            checkpoint_every_s=2.0,
            gpu_memory_gib=1.0,
            optimizer="adamw",
            initial_learning_rate=5e-3,
            # Left and right differ only by position: mirroring x hides that for longer than this preset trains.
            mirror_axes=(),
            mirror_at_prediction=False,
            base_num_features=8,
            max_num_features=32,
            max_patch_voxels=32 * 32 * 32,
            num_convs_per_stage=1,
            case_limits={"train": 6, "val": 2, "test": 4},
            tile_step_size=0.75,
            phantom_spacing_mm=8.0,
        ),
        Preset(
            name="quick",
            num_epochs=50,
            num_iterations_per_epoch=100,
            num_val_iterations_per_epoch=10,
            expected_s_per_iteration=0.13,
            checkpoint_every_s=120.0,
            mirror_axes=(0, 1),
            mirror_at_prediction=False,
            phantom_spacing_mm=2.0,
            case_limits={"train": 40, "val": 10},
        ),
        Preset(
            name="paper",
            num_epochs=1000,
            num_iterations_per_epoch=250,
            num_val_iterations_per_epoch=50,
            # 9 hours for 1000 x 250 iterations.
            expected_s_per_iteration=0.13,
            checkpoint_every_s=600.0,
        ),
    )
}


def find_preset(name: str) -> Preset:
    """Return the preset of that name; raises ConfigError with the names that exist."""
    if name not in PRESETS:
        raise ConfigError(f"--preset {name}: unknown; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]
