"""How much is trained: from a miniature on two CPU cores to nnU-Net's own schedule."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from orchestrator.benchmark.definition import TEST, TRAIN, VALIDATION
from orchestrator.configuration import Entry, expect_known, load_yaml, refusal, understood
from orchestrator.errors import ConfigError
from orchestrator.shipped import shipped_file
from orchestrator.storage.json_values import JsonMapping, JsonObject

Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]

Changes = tuple[tuple[str, object], ...]
"""Fields of a preset with other values than it has."""

NNUNET_MEMORY_GIB = 8.0
"""Of a GPU, that nnU-Net's default planner plans for."""
NNUNETS_OWN = {
    "gpu_memory_gib": NNUNET_MEMORY_GIB,
    "initial_learning_rate": 1e-2,
    "oversample_foreground": 0.33,
}
"""What fields of a preset that are None keep, where planner and trainer are nnU-Net's default."""


def _each_once(axes: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(axes)) < len(axes):
        raise ValueError("each axis once")
    return axes


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleStep:
    """What is otherwise from an epoch on; a setting that is not said stays as it was before."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    from_epoch: Annotated[int, Field(ge=0, le=2**31 - 1)]
    """Epochs that are over when it begins."""
    initial_learning_rate: Positive | None = None
    """The decay of the trainer goes on as if it had begun with this."""
    momentum: Momentum | None = None
    weight_decay: NotNegative | None = None
    oversample_foreground: Share | None = None

    @property
    def settings(self) -> dict[str, float]:
        """What it says, by name."""
        return {name: value for name, value in asdict(self).items() if name in SCHEDULED and value is not None}


SCHEDULED = tuple(one.name for one in fields(ScheduleStep) if one.name != "from_epoch")
"""Fields of a preset that may change in the midst of a training: neither plan, patches nor the state of the optimiser
follow from them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """One size of a study; `paper` changes nothing of nnU-Net's defaults."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    name: str
    """Given with `--preset`."""
    num_epochs: Count
    """Epochs of each training."""
    num_iterations_per_epoch: Count
    """Training iterations in an epoch."""
    num_val_iterations_per_epoch: Count
    """Validation iterations in an epoch (monitoring only: the final checkpoint is evaluated)."""
    checkpoint_every_s: Seconds
    """Seconds between two checkpoints: the most that a lost machine costs; 0 saves one after every iteration."""
    expected_s_per_iteration: Positive
    """Rough seconds of a training iteration: on an A100, or on one CPU core if the preset is meant for those;
    measured times are told as multiples of it."""
    gpu_memory_gib: Positive | None = None
    """Most memory of a plan by nnU-Net's own estimate, which its planner keeps to; None keeps the planner's own: 8 of
    the default, 24 of ResEnc L."""
    optimizer: Literal["nnunet", "adamw"] = "nnunet"
    """`nnunet` is the trainer's own: SGD with Nesterov momentum 0.99 and polynomial decay of nnU-Net's."""
    initial_learning_rate: Positive | None = None
    """At the first iteration; None keeps the trainer's own, 0.01 of nnU-Net's."""
    momentum: Momentum | None = None
    """Of SGD, or the first beta of AdamW; None keeps the optimiser's own, 0.99 or 0.9."""
    weight_decay: NotNegative | None = None
    """Of the optimiser; None keeps its own, 3e-5 of nnU-Net's, 0.01 of AdamW."""
    mirror_axes: Annotated[tuple[Annotated[int, Field(ge=0, le=2)], ...], AfterValidator(_each_once)] | None = None
    """Axes of (z, y, x) that augmentation mirrors; None keeps nnU-Net's choice (all)."""
    mirror_at_prediction: bool = True
    """Average predictions over mirrored inputs."""
    tile_step_size: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Step of the sliding window as a share of the patch."""
    base_num_features: Count | None = None
    """Feature maps of the first stage; None keeps nnU-Net's 32."""
    max_num_features: Count | None = None
    """Most feature maps of a stage; None keeps nnU-Net's limits."""
    num_convs_per_stage: Count | None = None
    """Convolutions of each stage; None keeps nnU-Net's 2."""
    max_patch_voxels: Count | None = None
    """Upper limit of voxels of a patch; None keeps nnU-Net's choice."""
    batch_size: Count | None = None
    """Patches of a batch; None keeps the planner's choice."""
    workers: Count = 1
    """Processes that fit the model together, each on a GPU of its own of one machine, with a part of every batch."""
    oversample_foreground: Share | None = None
    """Share of the patches of a batch that must hold foreground; None keeps the trainer's own, 0.33 of nnU-Net's."""
    schedule: tuple[ScheduleStep, ...] = ()
    """What changes from an epoch on, in place of what the preset itself says, as a population of trials finds it."""
    augmentation: Literal["kernels", "nnunet"] = "kernels"
    """Who augments: our kernels, which draw as nnU-Net does and need less CPU, or nnU-Net's own pipeline."""
    curve_every: Count | None = None
    """Epochs between two looks at whole validation cases, where a training has some; None makes none."""
    curve_share: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Most of the time of a training that these looks may add, as a share of it."""
    checkpoint: Literal["final", "best_dsc", "best_nsd"] = "final"
    """Weights that predict: those after the last epoch, or the best of those that were looked at (`curve_every`), by
    the mean DSC or NSD of whole validation cases. Where a training has none, those after the last epoch."""
    case_limits: Mapping[str, Count] = field(default_factory=dict)
    """Most cases of each entry of a list in a part of a training, `train`, `val` and `test`; others are left out,
    evenly."""
    phantom_spacing_mm: Positive | None = None
    """In-plane spacing of generated phantoms; None is full resolution."""

    def __post_init__(self) -> None:
        for name, least in {"num_epochs": 1, "num_iterations_per_epoch": 1, "checkpoint_every_s": 0}.items():
            if getattr(self, name) < least:
                raise ConfigError(f"preset {self.name}: {name} is {getattr(self, name)}; expected at least {least}")
        begins = [one.from_epoch for one in self.schedule]
        if begins != sorted(set(begins)):
            raise ConfigError(f"preset {self.name}: schedule from epochs {begins}; expected each later than the last")
        if self.chosen_by and self.curve_every is None:
            raise ConfigError(
                f"preset {self.name}: checkpoint {self.checkpoint} without curve_every; expected the epochs between "
                "two looks at validation cases, by which it is chosen"
            )

    @property
    def chosen_by(self) -> str:
        """`dsc` or `nsd` of validation cases, by which the weights are chosen that predict; empty if they are not."""
        return self.checkpoint.removeprefix("best_") if self.checkpoint != "final" else ""

    @property
    def is_for_cpus(self) -> bool:
        """Whether its network is small enough for CPU cores: it has fewer features than nnU-Net's."""
        return self.base_num_features is not None

    @property
    def expected_training_s(self) -> float:
        """Rough seconds of one training."""
        return self.num_epochs * self.num_iterations_per_epoch * self.expected_s_per_iteration

    @property
    def without_effect(self) -> list[str]:
        """What it says of epochs that its trainings do not come to, for people."""
        looks = [f"curve_every {self.curve_every}"] if (self.curve_every or 0) > self.num_epochs else []
        late = [one.from_epoch for one in self.schedule if one.from_epoch >= self.num_epochs]
        return looks + [f"schedule from epoch {epoch}" for epoch in late]

    def at_epoch(self, epoch: int) -> "Preset":
        """Return this preset with what its schedule says of an epoch, counted from 0."""
        said: dict[str, float] = {}
        for step in self.schedule:
            said |= step.settings if step.from_epoch <= epoch else {}
        return replace(self, **said)  # type: ignore[arg-type]

    def changed_by(self, changes: Changes, *, where: str = "model") -> "Preset":
        """Return what a model makes of this preset; raises ConfigError, beginning with `where`, for what does not fit.

        Parameters
        ----------
        changes
            Fields of MODEL_FIELDS with their values.
        where
            Who changes them.
        """
        if not changes:
            return self
        expect_known([name for name, _ in changes], MODEL_FIELDS, where=where, what="field of a preset")
        try:
            # As JSON, which is strict with numbers and takes a list for a tuple.
            return _preset.validate_json(json.dumps({**asdict(self), **dict(changes)}, default=str))
        except ValidationError as error:
            raise refusal(error, PresetsFile, where=where) from None


_PARTS = (TRAIN, VALIDATION, TEST)
"""What presets of any study may limit."""
LIKE, CASES = "like", "cases"
"""Keys of a preset in a file that are no fields of it: another one to begin with, and the most cases of each part."""
_FIELDS = tuple(one.name for one in fields(Preset) if one.name not in {"name", "case_limits"})
_OF_THE_RUN = {
    "checkpoint_every_s",
    "expected_s_per_iteration",
    "phantom_spacing_mm",
    "curve_every",
    "curve_share",
    "checkpoint",
}
_OF_PREDICTION = {"mirror_at_prediction", "tile_step_size"}
MODEL_FIELDS = tuple(name for name in _FIELDS if name not in _OF_THE_RUN | _OF_PREDICTION)
"""Fields of a preset that a model may have otherwise: how it is planned and fitted, and not how a run goes about it."""
_preset: TypeAdapter[Preset] = TypeAdapter(Preset)


def _properties() -> JsonObject:
    """Return what a JSON schema says of each field."""
    schema = _preset.json_schema()
    # It is put into other schemas, which have no definition of it.
    schema["properties"]["schedule"]["items"] = schema["$defs"][ScheduleStep.__name__]
    found: JsonObject = schema["properties"]
    return found


class _SaidOfPreset:
    """Tells JSON schemas what a preset in a file may say; `read_presets` reads it."""

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: object, _handler: object) -> JsonObject:
        known = _properties()
        like = {"type": "string", "description": "Preset that it is like, but for what it says itself."}
        said = {LIKE: like, **{name: known[name] for name in _FIELDS}, CASES: known["case_limits"]}
        return {"type": "object", "additionalProperties": False, "properties": said}


class _SaidOfModel:
    """Tells JSON schemas which fields of a preset a model may change; `Preset.changed_by` reads them."""

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: object, _handler: object) -> JsonObject:
        known = _properties()
        return {
            "type": "object",
            "additionalProperties": False,
            "properties": {name: known[name] for name in MODEL_FIELDS},
        }


ModelChanges = Annotated[JsonObject, _SaidOfModel]
"""What a model of a file changes of any preset."""
PresetEntry = Annotated[JsonObject, _SaidOfPreset]
"""A preset in a file."""


class PresetsFile(Entry):
    """The file of the presets that come along."""

    presets: dict[str, PresetEntry]
    """By name."""


def read_presets(entries: Mapping[str, JsonMapping], *, known: Mapping[str, Preset], where: str) -> dict[str, Preset]:
    """Return the presets of a file, strictly read; what they say of cases is left to the caller.

    Parameters
    ----------
    entries
        Name to what is said. An entry has the name of a known preset, which it changes, or is `like` one that is known
        or stands before it, or says all that has no default.
    known
        Other presets, by name.
    where
        File and place, for messages.

    Raises
    ------
    ConfigError
        For an unknown key or preset, with the nearest name, and for values that do not fit.
    """
    made: dict[str, Preset] = {}
    for name, entry in entries.items():
        place = f"{where}.{name}"
        expect_known(entry, [LIKE, CASES, *_FIELDS], where=place, what="key")
        offered = {**known, **made}
        like = entry.get(LIKE, name if name in known else None)
        if like is not None:
            expect_known([str(like)], offered, where=place, what="preset")
        values = asdict(offered[str(like)]) if like is not None else {}
        said = {key: value for key, value in entry.items() if key in _FIELDS}
        try:
            # As JSON, which is strict with numbers and takes a list for a tuple.
            made[name] = _preset.validate_json(json.dumps({**values, **said, "name": name}, default=str))
        except ValidationError as error:
            raise refusal(error, PresetsFile, where=place) from None
    return made


def _shipped_presets() -> dict[str, Preset]:
    path = shipped_file("splits", "presets.yaml")
    entries = understood(load_yaml(path), PresetsFile, where=str(path), below="presets").presets
    made = read_presets(entries, known={}, where=str(path))
    for name, entry in entries.items():
        expect_known(entry.get(CASES, {}), _PARTS, where=f"{path}: {name}.{CASES}", what="part of a training")
    return {name: replace(preset, case_limits=entries[name].get(CASES, {})) for name, preset in made.items()}


PRESETS = _shipped_presets()
"""Those that come along, by name."""


def find_preset(name: str, presets: Mapping[str, Preset] = PRESETS) -> Preset:
    """Return the preset of that name; raises ConfigError with the names that exist."""
    if name not in presets:
        raise ConfigError(f"--preset {name}: unknown; expected one of {', '.join(presets)}")
    return presets[name]
