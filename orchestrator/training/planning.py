"""Fingerprints of cases and the plans that nnU-Net makes of them.

Nothing here needs nnU-Net's folders or environment variables: fingerprints come one case at a time, and its planner
runs in a temporary folder that holds the merged fingerprint only.
"""

import base64
import contextlib
import gzip
import hashlib
import json
import logging
import tempfile
import threading
import zlib
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.benchmark.definition import LabelSet
from orchestrator.benchmark.presets import Preset
from orchestrator.errors import ConfigError, DataError, IntegrityError, is_out_of_memory
from orchestrator.training.nnunet_environment import prints_to_log

logger = logging.getLogger(__name__)

FINGERPRINT_FORMAT = 1
_INTENSITIES = {"<i2": "<i2", "<f4": "<f4"}
"""Types of intensities in a fingerprint: numpy would read other texts as Python."""
NUM_INTENSITY_SAMPLES = int(10e7)
"""Foreground voxels that nnU-Net draws from all cases of a data set together."""
NUM_INTENSITY_SAMPLES_IN_MINIATURE = 1_000_000
"""The same for presets that shrink the network: drawing 10e7 would take most of the time of a miniature plan."""

_NETWORKS = {
    f"dynamic_network_architectures.architectures.unet.{name}" for name in ("PlainConvUNet", "ResidualEncoderUNet")
}
_PARTS_OF_NETWORKS = {
    None,
    "torch.nn.LeakyReLU",
    *(f"torch.nn.modules.conv.Conv{axes}d" for axes in (2, 3)),
    *(f"torch.nn.modules.instancenorm.InstanceNorm{axes}d" for axes in (2, 3)),
}
"""What nnU-Net's planners name. nnU-Net imports and calls whatever a plan names, which may be any program."""

_planner_lock = threading.Lock()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CaseFingerprint:
    """What nnU-Net's planner must know of one case.

    nnU-Net draws 10e7 / (number of cases) foreground voxels of each case. That number differs between the trainings a
    case belongs to, so all of the foreground is kept, in order: any of these samples can be drawn from it exactly.
    """

    shape_after_crop: tuple[int, int, int]
    """Voxels (z, y, x) of the box of non-zero voxels."""
    spacing_mm: tuple[float, float, float]
    """(z, y, x)."""
    relative_size_after_cropping: float
    """Share of the voxels that the box holds."""
    foreground: NDArray[Any]
    """Intensities where the label is above 0, in C order: int16 where that is exact, else float32."""

    def to_bytes(self) -> bytes:
        """JSON with the intensities compressed; the same fingerprint gives the same bytes."""
        raw = self.foreground.astype(self.foreground.dtype.newbyteorder("<"), copy=False).tobytes()
        record = {
            "format": FINGERPRINT_FORMAT,
            "shape_after_crop": self.shape_after_crop,
            "spacing_mm": self.spacing_mm,
            "relative_size_after_cropping": self.relative_size_after_cropping,
            "foreground_dtype": self.foreground.dtype.newbyteorder("<").str,
            "foreground_crc32": zlib.crc32(raw),
            "foreground_zlib": base64.b64encode(zlib.compress(raw, 3)).decode(),
        }
        return json.dumps(record).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "CaseFingerprint":
        """Read what `to_bytes` wrote; raises IntegrityError if it is not whole."""
        try:
            record = json.loads(data)
            raw = zlib.decompress(base64.b64decode(record["foreground_zlib"]))
            made = cls(
                shape_after_crop=tuple(record["shape_after_crop"]),
                spacing_mm=tuple(record["spacing_mm"]),
                relative_size_after_cropping=record["relative_size_after_cropping"],
                foreground=np.frombuffer(raw, _INTENSITIES[record["foreground_dtype"]]),
            )
            expected = (record["format"], record["foreground_crc32"])
        except (LookupError, RecursionError, ValueError, TypeError, zlib.error) as error:
            raise IntegrityError(f"fingerprint of a case that is not whole ({error})") from error
        if (FINGERPRINT_FORMAT, zlib.crc32(raw)) != expected:
            found = (FINGERPRINT_FORMAT, zlib.crc32(raw))
            raise IntegrityError(f"fingerprint of a case with format and checksum {expected}; expected {found}")
        return made


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """nnU-Net's plans of one training with the configuration that it uses."""

    plans: dict[str, Any]
    """As nnU-Net writes them, and `continue_training`, which its trainer expects."""
    dataset_json: dict[str, Any]
    """nnU-Net's description of the data set."""
    configuration: str
    """`3d_fullres` or `2d`."""

    def to_bytes(self) -> bytes:
        """JSON of all three."""
        record = {"configuration": self.configuration, "dataset_json": self.dataset_json, "plans": self.plans}
        return json.dumps(record, indent=1).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Plan":
        """Read what `to_bytes` wrote; raises IntegrityError if it is not whole or names a network of others."""
        try:
            record = json.loads(data)
            plan = cls(
                plans=record["plans"], dataset_json=record["dataset_json"], configuration=record["configuration"]
            )
            for configuration in plan.plans["configurations"].values():
                # Those of a cascade inherit theirs.
                if "architecture" in configuration:
                    _check_network(configuration["architecture"])
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise IntegrityError(f"plan of a training that is not whole ({error!r})") from error
        return plan

    @property
    def sha256(self) -> str:
        """Digest that names this plan in checkpoints and results."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def plans_manager(self) -> Any:
        """A new nnU-Net PlansManager; changes to it do not reach this plan."""
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        return PlansManager(deepcopy(self.plans))

    @property
    def configuration_manager(self) -> Any:
        """nnU-Net's ConfigurationManager of the configuration."""
        return self.plans_manager.get_configuration(self.configuration)

    @property
    def label_manager(self) -> Any:
        """nnU-Net's LabelManager."""
        return self.plans_manager.get_label_manager(self.dataset_json)


def _check_network(architecture: dict[str, Any]) -> None:
    """Raise IntegrityError if a plan names something else as its network than nnU-Net's planners do."""
    parts = architecture["arch_kwargs"]
    named = [architecture["network_class_name"], *(parts[key] for key in architecture["_kw_requires_import"])]
    if named[0] not in _NETWORKS or not _PARTS_OF_NETWORKS.issuperset(named[1:]):
        raise IntegrityError(
            f"plan of a training with a network of {named}; expected those of nnU-Net's planners. Nothing else is "
            "imported: make the plan again"
        )


def fingerprint_case(image: Path, labels: Path) -> CaseFingerprint:
    """Measure one case as nnU-Net's `DatasetFingerprintExtractor.analyze_case` does.

    Raises DataError if a file cannot be read, if the two differ in shape, or if the image is zero everywhere.
    """
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero

    reader = SimpleITKIO()
    with prints_to_log():
        voxels, properties = read_with_nnunet(reader.read_images, [str(image)], path=image)
        label_map, _ = read_with_nnunet(reader.read_seg, str(labels), path=labels)
    if voxels.shape != label_map.shape:
        raise DataError(f"{labels}: shape {label_map.shape[1:]}; expected {voxels.shape[1:]} as in {image}")
    if not voxels.any():
        raise DataError(f"{image}: every voxel is 0; expected intensities of a CT")
    num_voxels = np.prod(voxels.shape[1:])
    cropped, cropped_labels, _ = crop_to_nonzero(voxels, label_map)
    foreground = cropped[0][cropped_labels[0] > 0]
    as_int16 = foreground.astype(np.int16) if foreground.size and np.abs(foreground).max() < 2**15 else None
    exact = as_int16 is not None and np.array_equal(as_int16, foreground)
    z, y, x = (int(size) for size in cropped.shape[1:])
    spacing_z, spacing_y, spacing_x = (float(value) for value in properties["spacing"])
    return CaseFingerprint(
        shape_after_crop=(z, y, x),
        spacing_mm=(spacing_z, spacing_y, spacing_x),
        relative_size_after_cropping=float(np.prod(cropped.shape[1:]) / num_voxels),
        foreground=as_int16 if exact and as_int16 is not None else foreground,
    )


def make_plan(
    fingerprints: Sequence[CaseFingerprint],
    *,
    label_set: LabelSet,
    configuration: str,
    preset: Preset,
    donor: Plan | None,
    name: str,
) -> Plan:
    """Plan one training with nnU-Net's ExperimentPlanner.

    A preset that sets neither features nor a limit of the patch gives nnU-Net's own plans. With a limit the patch is
    made smaller as nnU-Net itself makes it smaller for too little memory, and fewer intensities are drawn.

    Parameters
    ----------
    fingerprints : sequence of CaseFingerprint
        All cases of the data set, in the order of their names for the very same rounding as nnU-Net.
    label_set : LabelSet
        Structures that are learned.
    configuration : {"3d_fullres", "2d"}
        Configuration that the training uses.
    preset : Preset
        Size of the network and the patch.
    donor : Plan or None
        Plan whose patch size, network and batch size replace those of this data set.
    name : str
        Name of the data set in the plans (`Dataset001_<name>`).

    Raises
    ------
    DataError
        If no case has foreground, or the data set has no such configuration.
    ConfigError
        If the preset's limit of the patch leaves no room for a network, or the donor is of another configuration.
    """
    dataset_json = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{structure.name: structure.label for structure in label_set.structures}},
        "numTraining": len(fingerprints),
        "file_ending": ".nii.gz",
    }
    fingerprint = _merge(fingerprints, preset=preset, name=name)
    with tempfile.TemporaryDirectory(prefix="plan-") as folder:
        plans = _run_planner(Path(folder), name, fingerprint=fingerprint, dataset_json=dataset_json, preset=preset)
    if configuration not in plans["configurations"]:
        raise DataError(f"{name}: nnU-Net planned {list(plans['configurations'])}; expected {configuration} among them")
    if donor is not None:
        if donor.configuration != configuration:
            raise ConfigError(f"{name}: the plan it takes over is for {donor.configuration}; expected {configuration}")
        given = donor.plans["configurations"][configuration]
        for key in ("patch_size", "architecture", "batch_size"):
            plans["configurations"][configuration][key] = deepcopy(given[key])
    return Plan(plans={**plans, "continue_training": False}, dataset_json=dataset_json, configuration=configuration)


def read_with_nnunet(function: Any, *arguments: Any, path: Path) -> Any:
    """Call one of nnU-Net's readers; raises DataError that names the file if it is missing, cut short or unreadable."""
    try:
        if path.suffix == ".gz":
            # ITK fills what a cut file lacks with zeros and says nothing; to read to the end compares the checksum.
            with gzip.open(path) as stream:
                while stream.read(1 << 20):
                    pass
        return function(*arguments)
    except (RuntimeError, OSError, EOFError, zlib.error) as error:
        if is_out_of_memory(error):
            raise  # says nothing about the file
        reason = str(error).strip().splitlines()[-1:] or ["no reason given"]
        raise DataError(f"{path}: cannot be read ({reason[0]}); expected a whole NIfTI volume") from error


def _is_miniature(preset: Preset) -> bool:
    return any(value is not None for value in (preset.base_num_features, preset.max_patch_voxels))


def _merge(fingerprints: Sequence[CaseFingerprint], *, preset: Preset, name: str) -> dict[str, Any]:
    """Join cases to the fingerprint of a data set, with the intensities that nnU-Net would draw."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

    if not any(case.foreground.size for case in fingerprints):
        raise DataError(f"{name}: none of the {len(fingerprints)} cases has a labelled voxel; check their label maps")
    total = NUM_INTENSITY_SAMPLES_IN_MINIATURE if _is_miniature(preset) else NUM_INTENSITY_SAMPLES
    drawn = []
    for case in fingerprints:
        voxels = case.foreground.astype(np.float32)[None, None, None]
        samples, _ = DatasetFingerprintExtractor.collect_foreground_intensities(
            np.ones_like(voxels), voxels, num_samples=total // len(fingerprints)
        )
        drawn.append(samples[0])
    intensities = np.concatenate(drawn)
    low, median, high = np.percentile(intensities, np.array((0.5, 50.0, 99.5)))
    statistics = {
        "mean": np.mean(intensities),
        "median": median,
        "std": np.std(intensities),
        "min": np.min(intensities),
        "max": np.max(intensities),
        "percentile_99_5": high,
        "percentile_00_5": low,
    }
    return {
        "spacings": [list(case.spacing_mm) for case in fingerprints],
        "shapes_after_crop": [list(case.shape_after_crop) for case in fingerprints],
        "foreground_intensity_properties_per_channel": {"0": {key: float(v) for key, v in statistics.items()}},
        "median_relative_size_after_cropping": float(
            np.median([case.relative_size_after_cropping for case in fingerprints])
        ),
    }


def _run_planner(
    folder: Path, name: str, *, fingerprint: dict[str, Any], dataset_json: dict[str, Any], preset: Preset
) -> dict[str, Any]:
    """Lay out what nnU-Net's planner reads, run it, and return its plans as JSON has them."""
    dataset_name = f"Dataset001_{name}"
    raw, preprocessed = folder / "raw" / dataset_name, folder / "preprocessed" / dataset_name
    raw.mkdir(parents=True)
    preprocessed.mkdir(parents=True)
    # The reader is named, so the planner opens no image; it only wants the list of them not to be empty.
    described = {
        **dataset_json,
        "overwrite_image_reader_writer": "SimpleITKIO",
        "dataset": {"case": {"images": ["case_0000.nii.gz"], "label": "case.nii.gz"}},
    }
    (raw / "dataset.json").write_text(json.dumps(described))
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    with _planner_lock, _planner_folders(folder), prints_to_log():
        planner = _new_planner(dataset_name, preset=preset)
        planner.plan_experiment()
    plans: dict[str, Any] = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    return plans


@contextlib.contextmanager
def _planner_folders(folder: Path) -> Iterator[None]:
    """Point the planner's module to a folder, and keep it from starting `hostname` and changing torch's threads."""
    import torch
    from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner as module

    replaced = {
        "nnUNet_raw": str(folder / "raw"),
        "nnUNet_preprocessed": str(folder / "preprocessed"),
        "get_allowed_n_proc_DA": torch.get_num_threads,
    }
    kept = {key: getattr(module, key) for key in replaced}
    try:
        for key, value in replaced.items():
            setattr(module, key, value)
        yield
    finally:
        for key, value in kept.items():
            setattr(module, key, value)


def _new_planner(dataset_name: str, *, preset: Preset) -> Any:
    """nnU-Net's planner with the preset's limits."""
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    planner = ExperimentPlanner(dataset_name, gpu_memory_target_in_gb=preset.gpu_memory_gib)
    if preset.base_num_features is not None:
        planner.UNet_base_num_features = preset.base_num_features
    if preset.max_num_features is not None:
        planner.UNet_max_features_2d = planner.UNet_max_features_3d = preset.max_num_features
    if preset.num_convs_per_stage is not None:
        for name in ("UNet_blocks_per_stage_encoder", "UNet_blocks_per_stage_decoder"):
            setattr(planner, name, tuple(preset.num_convs_per_stage for _ in getattr(planner, name)))
    if preset.max_patch_voxels is not None:
        planner.static_estimate_VRAM_usage = _limited(planner.static_estimate_VRAM_usage, preset=preset)
    return planner


def _limited(estimate: Any, *, preset: Preset) -> Any:
    """Estimate of the memory that no GPU has for a patch above the preset's limit: the planner shrinks it further."""
    limit = preset.max_patch_voxels
    assert limit is not None

    def estimate_or_refuse(patch_size: Sequence[int], *arguments: Any) -> float:
        if min(patch_size) < 1:
            raise ConfigError(f"preset {preset.name}: max_patch_voxels {limit} leaves no patch; expected a larger one")
        return 1e30 if np.prod(patch_size) > limit else float(estimate(patch_size, *arguments))

    return estimate_or_refuse
