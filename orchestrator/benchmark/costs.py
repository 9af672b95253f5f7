"""What is done besides training, from what it works on: rough seconds of one core, and of a network's processor.

Numbers to plan with, as the seconds of an iteration (`presets.py`) and the speeds of GPUs (`gpu_kinds.py`) are; once a
run has stages behind it, their own times correct them. Seconds of a core and memory are those of
`python -m bench.stage_costs` at full size (AMD EPYC, 2026-11-27).
"""

import math
from dataclasses import dataclass

from orchestrator.benchmark.definition import Dataset, Training
from orchestrator.benchmark.presets import Preset

_PLANE_VOXELS = 512 * 512
_PHANTOM_MM3 = 400.0 * 320.0 * 320.0
"""Seen by a phantom of a coarse spacing."""
_PATCH_VOXELS = 128 * 128 * 128
"""Of a patch whose network takes the 8 GiB of memory that nnU-Net plans for."""
START_S = 0.03
"""Of any stage: Ray's task, files, records."""
_PASSES_PER_ITERATION = 6.0
"""Forward passes of one patch that take a GPU as long as an iteration, which takes two patches forward and back; back
costs twice as much as forward. Derived, not measured."""
_PASSES_PER_ITERATION_ON_CORE = 1.0
"""The same on a core, measured: one patch of a miniature alone takes PyTorch about as long as an iteration with two."""
_LOST_BY_A_WORKER = 0.25
"""Of what another worker adds to a training, as a share of one worker's time: they wait for each other, and for a part
of a batch a GPU takes more than that part of the time. Assumed, not measured on GPUs."""
_DRAW_S = 6.2
"""In which nnU-Net draws and sorts 100 million intensities for a plan; a miniature has a hundredth of them."""


_PROCESS_GIB = 0.7
"""Of a process that has imported what a stage needs, and of a stage with a miniature."""
_DRAW_GIB = 1.2
"""Of the intensities that nnU-Net draws for a plan."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCost:
    """What a step takes for each million voxels of a case, beside what it takes for anything."""

    core_s: float
    """Seconds of one core."""
    gib: float
    """Memory of the process."""

    def seconds(self, voxels: float) -> float:
        """Return the seconds of a stage on one core."""
        return START_S + self.core_s * voxels / 1e6

    def memory_gib(self, voxels: float) -> int:
        """Return the memory of a stage whose largest case has so many voxels, in whole GiB."""
        return math.ceil(_PROCESS_GIB + self.gib * voxels / 1e6)


GENERATE = StepCost(core_s=0.38, gib=0.012)
"""A phantom, with its labels."""
INGEST = StepCost(core_s=0.079, gib=0.019)
"""Of voxels of the image as it comes, like all but the two that name others. Measured on 2026-11-28, beside others."""
LABELS = StepCost(core_s=0.041, gib=0.007)
"""One label map, with the image that it is compared with; measured likewise."""
FINGERPRINT = StepCost(core_s=0.033, gib=0.011)
PREPROCESS = StepCost(core_s=0.46, gib=0.051)
"""Of voxels on the grid of the training."""
EXPORT = StepCost(core_s=0.50, gib=0.046)
"""A prediction but for its network: preprocess the image, bring the logits back to its grid, write the labels. Of
voxels on the grid of the training; its memory is part of what a prediction counts as."""
SCORE = StepCost(core_s=0.001, gib=0.002)


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionSeconds:
    """What the prediction of one case takes."""

    core: float
    """On a core."""
    network: float
    """On an A100, or on one core if the preset is meant for those."""


def pace_of_workers(number: int) -> float:
    """Return how much faster than one worker several fit a model together: two 1.6 times, four 2.3 times."""
    return number / (1 + _LOST_BY_A_WORKER * (number - 1))


def case_voxels(dataset: Dataset, *, preset: Preset, phantoms: bool) -> int:
    """Return the voxels of a typical case of a data set; coarse phantoms have fewer."""
    voxels = dataset.num_slices * _PLANE_VOXELS
    if phantoms and preset.phantom_spacing_mm is not None:
        voxels = min(voxels, round(_PHANTOM_MM3 / preset.phantom_spacing_mm**3))
    return voxels


def plan_s(preset: Preset) -> float:
    """Return the seconds of one core that a plan takes: intensities are drawn from the fingerprints of its cases."""
    return START_S + (0.0 if preset.is_for_cpus else _DRAW_S)


def plan_memory_gib(preset: Preset) -> int:
    """Return the memory that a plan takes, in whole GiB."""
    return math.ceil(_PROCESS_GIB + (0.0 if preset.is_for_cpus else _DRAW_GIB))


def prediction_of_case(voxels: float, *, training: Training, preset: Preset) -> PredictionSeconds:
    """Return what it takes to predict a case with so many voxels on the grid of its training.

    The network's part is derived, not measured: nnU-Net's window moves over the case by a share of the patch, and each
    of its places is one forward pass for every combination of mirrored axes. The patch is taken to be shaped as the
    case, and the places along an axis, which nnU-Net rounds up, to be half of one more.
    """
    along_axis = (voxels / (preset.max_patch_voxels or _PATCH_VOXELS)) ** (1 / 3)
    num_places = max(1.0, (along_axis - 1) / preset.tile_step_size + 1.5) ** 3
    num_axes = 2 if training.model.configuration == "2d" else 3
    mirrored = range(num_axes) if preset.mirror_axes is None else preset.mirror_axes
    num_passes = num_places * (2 ** len(mirrored) if preset.mirror_at_prediction else 1)
    pass_s = preset.expected_s_per_iteration
    pass_s /= _PASSES_PER_ITERATION_ON_CORE if preset.is_for_cpus else _PASSES_PER_ITERATION
    return PredictionSeconds(core=EXPORT.seconds(voxels), network=num_passes * pass_s)
