"""Fingerprints of cases and the plans that nnU-Net makes of them.

Nothing here needs nnU-Net's folders or environment variables: fingerprints come one case at a time, and its planner
runs in a temporary folder that holds the merged fingerprint only.
"""

import base64
import hashlib
import json
import logging
import tempfile
import zlib
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from orchestrator.benchmark.definition import LabelSet
from orchestrator.benchmark.presets import Preset
from orchestrator.benchmark.study_file import IGNORE
from orchestrator.errors import ConfigError, DataError, IntegrityError
from orchestrator.storage.json_values import JsonObject
from orchestrator.training.nnunet.classes import DEFAULT_PLANNER
from orchestrator.training.nnunet.environment import prints_to_log, read_with_nnunet
from orchestrator.training.nnunet.networks import check_network
from orchestrator.training.nnunet.planners import run_planner

if TYPE_CHECKING:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager


logger = logging.getLogger(__name__)

FINGERPRINT_FORMAT = 1
_INTENSITIES = {"<i2": "<i2", "<f4": "<f4"}
"""Types of intensities in a fingerprint: numpy would read other texts as Python."""
HANDED_OUT = "handed_out"
"""Key beside those of nnU-Net in the description of a data set whose files are others than the NIfTI of a run."""
NUM_INTENSITY_SAMPLES = int(10e7)
"""Foreground voxels that nnU-Net draws from all cases of a data set together."""
NUM_INTENSITY_SAMPLES_IN_MINIATURE = 1_000_000
"""The same for presets that shrink the network: drawing 10e7 would take most of the time of a miniature plan."""


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
    foreground: NDArray[np.generic]
    """Intensities where the label is above 0, shape (channels, voxels), in C order: int16 where that is exact, else
    float32."""

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
        if len(self.foreground) > 1:
            record["num_channels"] = len(self.foreground)
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
                foreground=np.frombuffer(raw, _INTENSITIES[record["foreground_dtype"]]).reshape(
                    record.get("num_channels", 1), -1
                ),
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

    plans: JsonObject
    """As nnU-Net writes them, and `continue_training`, which its trainer expects."""
    dataset_json: JsonObject
    """nnU-Net's description of the data set."""
    configuration: str
    """`3d_fullres` or `2d`."""

    def to_bytes(self) -> bytes:
        """JSON of all three."""
        record = {"configuration": self.configuration, "dataset_json": self.dataset_json, "plans": self.plans}
        return json.dumps(record, indent=1).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Plan":
        """Read what `to_bytes` wrote; raises IntegrityError if it is not whole or has a network of others."""
        try:
            record = json.loads(data)
            plan = cls(
                plans=record["plans"], dataset_json=record["dataset_json"], configuration=record["configuration"]
            )
            check_network(plan.plans, plan.configuration)
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise IntegrityError(f"plan of a training that is not whole ({error!r})") from error
        return plan

    @property
    def channel_names(self) -> JsonObject:
        """Of each channel, by its number; where both names of the key are there, nnU-Net takes the earlier one."""
        key = "modality" if "modality" in self.dataset_json else "channel_names"
        named: JsonObject = self.dataset_json.get(key) or {}
        return named

    def for_files(self, *, file_ending: str, reader: str, orientation: str | None = None) -> "Plan":
        """Return this plan with what a model that is handed out shall say of the files of its data set.

        `orientation` is the order of axes to which its images were brought before all else; None if they were not.
        """
        usual = {"file_ending": self.dataset_json["file_ending"], "reader": self.plans["image_reader_writer"]}
        said = {"file_ending": file_ending, "reader": reader}
        if orientation is not None:
            said["orientation"] = orientation
        return self if said == usual else replace(self, dataset_json={**self.dataset_json, HANDED_OUT: said})

    @property
    def orientation(self) -> str | None:
        """The order of axes that its images had, as `LPS`; None if that of their files."""
        said = self.dataset_json.get(HANDED_OUT) or {}
        found = said.get("orientation")
        return None if found is None else str(found)

    def handed_out(self) -> "Plan":
        """Return the plan of a model that leaves its run: it reads files as they are in its data set."""
        described = {key: value for key, value in self.dataset_json.items() if key != HANDED_OUT}
        said = self.dataset_json.get(HANDED_OUT)
        if not said:
            return replace(self, dataset_json=described)
        plans = {**self.plans, "image_reader_writer": said["reader"]}
        return replace(self, plans=plans, dataset_json=described | {"file_ending": said["file_ending"]})

    @property
    def sha256(self) -> str:
        """Digest that names this plan in checkpoints and results."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def plans_manager(self) -> "PlansManager":
        """A new nnU-Net PlansManager; changes to it do not reach this plan."""
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        return PlansManager(deepcopy(self.plans))

    @property
    def reader_names(self) -> frozenset[str]:
        """Names of the class of nnU-Net that reads the images, and of those that it is made of."""
        return frozenset(one.__name__ for one in self.plans_manager.image_reader_writer_class.__mro__)

    @property
    def configuration_manager(self) -> "ConfigurationManager":
        """nnU-Net's ConfigurationManager of the configuration."""
        return self.plans_manager.get_configuration(self.configuration)

    @property
    def label_manager(self) -> "LabelManager":
        """nnU-Net's LabelManager."""
        return self.plans_manager.get_label_manager(self.dataset_json)


def fingerprint_case(images: Sequence[Path], labels: Path) -> CaseFingerprint:
    """Measure one case, a file for each channel, as nnU-Net's `DatasetFingerprintExtractor.analyze_case` does.

    Raises DataError if a file cannot be read, if shapes differ, or if all channels are zero everywhere.
    """
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero

    reader = SimpleITKIO()
    with prints_to_log():
        voxels, properties = read_with_nnunet(reader.read_images, list(map(str, images)), paths=images)
        label_map, _ = read_with_nnunet(reader.read_seg, str(labels), paths=[labels])
    if voxels.shape[1:] != label_map.shape[1:]:
        raise DataError(f"{labels}: shape {label_map.shape[1:]}; expected {voxels.shape[1:]} as in {images[0]}")
    if not voxels.any():
        raise DataError(f"{images[0]}: every voxel is 0; expected intensities")
    num_voxels = np.prod(voxels.shape[1:])
    cropped, cropped_labels, _ = crop_to_nonzero(voxels, label_map)
    foreground = cropped[:, cropped_labels[0] > 0]
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


class PlanSubject(TypedDict):
    """What is planned."""

    name: str
    """Of the data set in the plans (`Dataset001_<name>`)."""
    label_set: LabelSet
    """Structures that are learned."""
    configuration: str
    """`3d_fullres`, `3d_lowres` or `2d`: the one that the training uses."""
    planner: NotRequired[str]
    """Name of nnU-Net's class that plans; its default unless given."""
    channels: NotRequired[Sequence[str]]
    """Names of the images of a case in nnU-Net's terms, which say how each is normalised; one CT unless given."""


def make_plan(
    fingerprints: Sequence[CaseFingerprint],
    *,
    preset: Preset,
    donor: Plan | None,
    **subject: Unpack[PlanSubject],
) -> Plan:
    """Plan one training with nnU-Net's planner of that name.

    A preset that sets neither features nor a limit of the patch gives nnU-Net's own plans. With a limit the patch is
    made smaller as nnU-Net itself makes it smaller for too little memory, and fewer intensities are drawn.

    Parameters
    ----------
    fingerprints : sequence of CaseFingerprint
        All cases of the data set, in the order of their names for the very same rounding as nnU-Net.
    preset : Preset
        Size of the network, the patch and the batch.
    donor : Plan or None
        Plan whose patch size, network and batch size replace those of this data set.
    **subject
        Of PlanSubject: what is planned.

    Raises
    ------
    DataError
        If no case has foreground, or the data set has no such configuration.
    ConfigError
        If nnU-Net has no such planner, the preset's limit of the patch leaves no room for a network, the planner names
        another network than nnU-Net's, or the donor is of another configuration.
    """
    name, configuration = subject["name"], subject["configuration"]
    planner = subject.get("planner", DEFAULT_PLANNER)
    dataset_json = _description(subject, num_cases=len(fingerprints))
    fingerprint = _merge(fingerprints, preset=preset, name=name)
    with tempfile.TemporaryDirectory(prefix="plan-") as folder:
        plans = run_planner(
            Path(folder), name, planner=planner, fingerprint=fingerprint, dataset_json=dataset_json, preset=preset
        )
    _check_configuration(configuration, plans, name=name)
    if donor is not None:
        _take_over(plans, donor, configuration=configuration, name=name)
    if preset.batch_size is not None:
        plans["configurations"][configuration]["batch_size"] = preset.batch_size
    made = Plan(plans={**plans, "continue_training": False}, dataset_json=dataset_json, configuration=configuration)
    try:
        return Plan.from_bytes(made.to_bytes())
    except IntegrityError as error:
        raise ConfigError(f"{name}: planner {planner}: {error}") from error


def _description(subject: PlanSubject, *, num_cases: int) -> JsonObject:
    """Return the `dataset.json`."""
    return {
        "channel_names": {str(index): channel for index, channel in enumerate(subject.get("channels", ("CT",)))},
        **_labels(subject["label_set"]),
        "numTraining": num_cases,
        "file_ending": ".nii.gz",
    }


def _take_over(plans: JsonObject, donor: Plan, *, configuration: str, name: str) -> None:
    """Put patch size, network and batch size of another plan in the place of those of this data set."""
    if donor.configuration != configuration:
        raise ConfigError(f"{name}: the plan it takes over is for {donor.configuration}; expected {configuration}")
    given = donor.plans["configurations"][configuration]
    for key in ("patch_size", "architecture", "batch_size"):
        plans["configurations"][configuration][key] = deepcopy(given[key])


def _labels(label_set: LabelSet) -> JsonObject:
    """Return what `dataset.json` says of a label set: each label, or region with what is written for it."""
    structures = label_set.structures
    # nnU-Net learns regions if one of them has several labels.
    has_regions = any(len(structure.labels) > 1 for structure in structures)
    labels = {one.name: list(one.labels) if len(one.labels) > 1 else one.labels[0] for one in structures}
    ignored = {} if label_set.ignored_label is None else {IGNORE: label_set.ignored_label}
    order = {"regions_class_order": [structure.label for structure in structures]} if has_regions else {}
    return {"labels": {"background": 0, **labels, **ignored}, **order}


def _check_configuration(wanted: str, plans: JsonObject, *, name: str) -> None:
    """Raise DataError if nnU-Net made no plan for a configuration, with its reason."""
    there = [key for key, found in plans["configurations"].items() if "architecture" in found]
    if wanted in there:
        return
    reasons = {
        "3d_lowres": "it makes this one where a patch of 3d_fullres holds less than a quarter of a typical image",
        "3d_fullres": "it makes this one for images of several slices",
    }
    reason = f" ({reasons[wanted]})" if wanted in reasons else ""
    raise DataError(
        f"{name}: nnU-Net planned {', '.join(there)} for these images and not {wanted}{reason}; expected a model with "
        f"configuration: {there[-1]}"
    )


def _merge(fingerprints: Sequence[CaseFingerprint], *, preset: Preset, name: str) -> JsonObject:
    """Join cases to the fingerprint of a data set, with the intensities that nnU-Net would draw."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

    if not any(case.foreground.size for case in fingerprints):
        raise DataError(f"{name}: none of the {len(fingerprints)} cases has a labelled voxel; check their label maps")
    total = NUM_INTENSITY_SAMPLES_IN_MINIATURE if preset.is_for_cpus else NUM_INTENSITY_SAMPLES
    drawn = []
    for case in fingerprints:
        voxels = case.foreground.astype(np.float32)[:, None, None]
        samples, _ = DatasetFingerprintExtractor.collect_foreground_intensities(
            np.ones_like(voxels[:1]), voxels, num_samples=total // len(fingerprints)
        )
        drawn.append(samples)
    by_channel = {
        str(channel): _statistics(np.concatenate(parts)) for channel, parts in enumerate(zip(*drawn, strict=True))
    }
    return {
        "spacings": [list(case.spacing_mm) for case in fingerprints],
        "shapes_after_crop": [list(case.shape_after_crop) for case in fingerprints],
        "foreground_intensity_properties_per_channel": by_channel,
        "median_relative_size_after_cropping": float(
            np.median([case.relative_size_after_cropping for case in fingerprints])
        ),
    }


def _statistics(intensities: NDArray[np.float32]) -> dict[str, float]:
    """Return what nnU-Net keeps of the intensities that it has drawn of one channel."""
    low, median, high = np.percentile(intensities, np.array((0.5, 50.0, 99.5)))
    return {
        "mean": float(np.mean(intensities)),
        "median": float(median),
        "std": float(np.std(intensities)),
        "min": float(np.min(intensities)),
        "max": float(np.max(intensities)),
        "percentile_99_5": float(high),
        "percentile_00_5": float(low),
    }
