"""From nnU-Net's plans to the settings of our loaders."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.training.feed.augmentation import PatchSettings, Shape
from orchestrator.training.feed.loader import BatchSettings

if TYPE_CHECKING:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerChoices:
    """What nnU-Net's trainer has chosen for its batches; axes and shape are (y, x) for a 2d network."""

    batch_size: int
    """Patches of a batch, of all workers together."""
    rotation_rad: tuple[float, float]
    """Least and largest angle."""
    in_plane: bool
    """Whether it rotates within slices alone."""
    initial_shape: Sequence[int]
    """Of a patch before it is rotated and scaled."""
    mirror_axes: Sequence[int] | None
    """Along which it mirrors."""
    deep_supervision_scales: Sequence[Sequence[float]] | None
    """Size of each output of the network as a share of the patch, one number an axis; None for a single output."""
    oversample_foreground: float
    """As in `BatchSettings`."""
    draws_foreground: bool
    """As in `BatchSettings`."""
    own: range | None = None
    """As in `BatchSettings`."""


def batch_settings(
    configuration: "ConfigurationManager", labels: "LabelManager", chosen: TrainerChoices
) -> BatchSettings:
    """Return how the batches of a training are put together.

    Parameters
    ----------
    configuration
        nnU-Net's configuration manager.
    labels
        nnU-Net's label manager.
    chosen
        By its trainer.
    """
    patch = tuple(int(size) for size in configuration.patch_size)
    is_2d = len(patch) == 2
    scales = chosen.deep_supervision_scales or [[1.0] * len(patch)]
    return BatchSettings(
        patches=PatchSettings(
            patch_shape=_three_axes(patch),
            initial_shape=_three_axes([int(size) for size in chosen.initial_shape]),
            is_2d=is_2d,
            in_plane=chosen.in_plane or is_2d,
            rotation_rad=chosen.rotation_rad,
            mirror_axes=tuple(axis + is_2d for axis in chosen.mirror_axes or ()),
            masked_channels=tuple(index for index, masks in enumerate(configuration.use_mask_for_norm) if masks),
        ),
        batch_size=chosen.batch_size,
        oversample_foreground=chosen.oversample_foreground,
        draws_foreground=chosen.draws_foreground,
        own=chosen.own,
        target_shapes=tuple(
            _three_axes([round(size * share) for size, share in zip(patch, scale, strict=True)]) for scale in scales
        ),
        deep_supervision=chosen.deep_supervision_scales is not None,
        augment=True,
        regions=_regions(labels),
        # As nnU-Net's preprocessing names them.
        annotated=tuple(int(label) for label in (-1, *labels.all_labels)) if labels.has_ignore_label else None,
    )


def without_augmentation(settings: BatchSettings) -> BatchSettings:
    """Return the settings of patches that are only cropped, for the Dice that is shown while a training runs."""
    patches = replace(settings.patches, initial_shape=settings.patches.patch_shape)
    return replace(settings, patches=patches, augment=False)


def _regions(labels: "LabelManager") -> tuple[tuple[int, ...], ...]:
    """Return the labels of each channel of a target: the regions, then what is ignored; none if labels are learned."""
    if not labels.has_regions:
        return ()
    regions = [*labels.foreground_regions, *([labels.ignore_label] if labels.has_ignore_label else [])]
    return tuple(tuple(map(int, region)) if isinstance(region, tuple | list) else (int(region),) for region in regions)


def _three_axes(shape: Sequence[int]) -> Shape:
    """Return (z, y, x) of a shape, which has one slice if it is (y, x)."""
    z, y, x = shape if len(shape) == 3 else (1, *shape)
    return z, y, x
