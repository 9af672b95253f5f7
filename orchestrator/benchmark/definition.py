"""What is trained and tested: the carriers of a study, pure data without any file access.

A *training* is one model, fitted to the cases of one fold. A *label set* is one way in which a case is labelled; a case
may have several of them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.errors import ConfigError

TRAINING_SEED = "training_seed"
"""Facet of trainings of a model that is trained with several seeds: which of these."""
VALIDATION = "val"
"""Name of the evaluation set of a training's own validation cases."""
TRAIN, TEST = "train", "test"
"""Parts of a training that presets limit, beside `val`; what limits `test` limits every evaluation set that has no
limit of its own."""
CASE_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,199}")
"""Names of cases that files of a run can have."""
PAIR: Literal["pair"] = "pair"
"""How nnU-Net chooses an ensemble: the best of all models and of all pairs of them, by their validation cases."""
Choice = int | Literal["pair"]
"""How an ensemble is chosen by validation cases: so many of the best models, or `pair`."""
NNUNET_RAW = "nnunet-raw"
"""Name of the layout of files that is nnU-Net's own: a folder `DatasetNNN_Name`."""
_OF_A_CASE = re.compile(r"(image(-\d+)?|case)", re.IGNORECASE)
"""Names of files that a run keeps beside the label maps of a case."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Structure:
    """One labelled structure of a label set."""

    name: str
    """Unique in its label set."""
    label: int
    """Its value in the label map, at least 1; of a region, what a prediction writes where it ends."""
    tolerance_mm: float
    """Tolerance of the normalised surface Dice (NSD)."""
    region: tuple[int, ...] = ()
    """Labels that make up the structure where it is a region of nnU-Net's, which may overlap others; else empty."""

    @property
    def labels(self) -> tuple[int, ...]:
        """All labels of the label map that belong to it."""
        return self.region or (self.label,)

    def __post_init__(self) -> None:
        if self.label < 1:
            raise ConfigError(f"structure {self.name}: label {self.label}; expected an integer of at least 1")
        if not self.tolerance_mm >= 0:
            raise ConfigError(f"structure {self.name}: tolerance_mm {self.tolerance_mm}; expected at least 0")


STUDY_METRICS = ("dsc", "nsd", "hd95", "assd")
"""What every prediction of a run is scored by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FurtherMetric:
    """What a study's predictions are scored by besides."""

    name: str
    """As `evaluate --metrics` knows it."""
    field: str
    """Its column in the results."""
    title: str
    """With its unit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelSet:
    """The structures that one kind of label map holds."""

    name: str
    """Unique in the study."""
    structures: tuple[Structure, ...]
    """In the order of their labels 1, 2, ...; regions in the order in which a prediction writes them, a later one
    over an earlier one."""
    ignored_label: int | None = None
    """Label of voxels that nobody has annotated: they are neither learned nor scored."""

    @property
    def has_regions(self) -> bool:
        """Whether a structure is a region."""
        return any(structure.region for structure in self.structures)

    @property
    def labels(self) -> tuple[int, ...]:
        """Every label that its label maps may hold, sorted; without background."""
        ignored = () if self.ignored_label is None else (self.ignored_label,)
        return tuple(sorted({label for structure in self.structures for label in structure.labels}.union(ignored)))

    def __post_init__(self) -> None:
        if _OF_A_CASE.fullmatch(self.name):
            raise ConfigError(
                f"label set {self.name}: a run keeps a file of that name beside the label maps of a case; expected "
                "another name"
            )

    def structure(self, name: str) -> Structure:
        """Return the structure of that name; raises ConfigError if this label set has none."""
        for structure in self.structures:
            if structure.name == name:
                return structure
        raise ConfigError(
            f"label set {self.name}: no structure {name!r}; expected one of {[s.name for s in self.structures]}"
        )


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Case:
    """One volume of one data set."""

    dataset: str
    """Name of the data set."""
    name: str
    """Name within the data set."""

    @property
    def id(self) -> str:
        """`<dataset>/<name>`, unique in the study and usable as a relative path."""
        return f"{self.dataset}/{self.name}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """One labelled data set."""

    name: str
    """Unique in the study."""
    title: str
    """As tables print it."""
    source: str
    """The layout of files that it is read from."""
    folder: str
    """Its folder below the data folder; several data sets may share one."""
    channels: tuple[str, ...]
    """Names of the images of a case in nnU-Net's terms, which say how each is normalised: `CT`, or any other."""
    label_sets: tuple[str, ...]
    """Names of the label sets that its cases have."""
    case_names: tuple[str, ...]
    """Every case that the study uses, sorted."""
    num_slices: int
    """Of a typical case, roughly: how much work it is before anything is read."""
    label_values: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    """Label set to what the values of its masks become: value to label, 0 for one that is not used. Empty for a layout
    that knows its own."""
    file_ending: str = ".nii.gz"
    """Of its files, in nnU-Net's terms: what a model that is handed out expects."""
    reader: str = "SimpleITKIO"
    """nnU-Net's class that reads these."""

    def image(self, case_name: str) -> tuple[str, ...]:
        """Return what is equal for cases of one image: data sets may share a folder."""
        return (self.source, self.folder, case_name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """How a training fits its cases, in nnU-Net's terms; the same for every fold."""

    name: str
    """Unique in the study; a facet of each of its trainings."""
    configuration: str = "3d_fullres"
    """Configuration of nnU-Net: `3d_fullres`, `3d_lowres` or `2d`."""
    planner: str = "ExperimentPlanner"
    """nnU-Net's class that makes the plans."""
    trainer: str = "nnUNetTrainer"
    """nnU-Net's class that trains."""
    suffix: str = ""
    """What it adds to the names of its groups of trainings."""
    changes: tuple[tuple[str, object], ...] = ()
    """Fields of the preset that it has otherwise, as `Preset.changed_by` takes them."""
    seeds: tuple[int, ...] = ()
    """With which each fold is trained; empty for once, with a seed of its own."""
    note: str = ""
    """What tables say of it: that it was tuned, say, on what, and with how many trials."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSet:
    """Cases on which one training is scored."""

    name: str
    """`val` is in the training's own domain; the study names the others."""
    label_set: str
    """Label set of the reference masks."""
    structures: tuple[str, ...]
    """Names of the structures that are scored; both the reference and the training's label set have them."""
    cases: tuple[Case, ...]
    """Sorted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """One model to be trained, with every case it sees and every case it is scored on."""

    group: str
    """The trainings that differ in nothing but their fold and seed, for example `liver-a`."""
    fold: int
    """From 0."""
    num_folds: int
    """Of its group."""
    facets: Mapping[str, str | int]
    """Values that the study gives it, `model` among them: trainings are selected, grouped and tabulated by them."""
    label_set: str
    """Name of the label set that it learns."""
    model: Model
    """How it is fitted."""
    train: tuple[Case, ...]
    """Cases the weights are fitted to."""
    val: tuple[Case, ...]
    """In-domain validation cases; may be empty."""
    evaluation_sets: tuple[EvaluationSet, ...]
    """What the final checkpoint is scored on."""
    plans_from: str | None
    """Id of the training whose patch size and network this one takes over."""
    seed: int | None = None
    """Which of several seeds of its model; None where there is but one."""
    num_uncapped_cases: int
    """Number of train + val + test cases before a preset capped them."""
    members: tuple["Training", ...] = ()
    """Of an ensemble, which is not trained: those whose probabilities are averaged, in this order. What they were
    trained on is what it was trained on."""
    choose: Choice | None = None
    """How some of the members are chosen; all are taken unless given."""
    chosen_by: str = ""
    """`dsc` or `nsd` of validation cases, by which members or, of a training, the epoch whose weights predict are
    chosen; empty if nothing is."""
    given_id: str = ""
    """By the template of the study, if it has one."""

    @property
    def candidates(self) -> dict[str, tuple["Training", ...]]:
        """The members by their group: what is chosen of, with all folds that each has."""
        found: dict[str, tuple[Training, ...]] = {}
        for member in self.members:
            found[member.group] = (*found.get(member.group, ()), member)
        return found

    @property
    def id(self) -> str:
        """Unique and usable as a file name: `liver-a-fold0` or `liver-a-seed1-fold0`, or as the study says it."""
        return self.given_id or training_id(self.group, seed=self.seed, fold=self.fold)

    @property
    def base_group(self) -> str:
        """Its group as the study file names it, which the groups of all models have in common."""
        return self.group.removesuffix(self.model.suffix)

    @property
    def num_in_group(self) -> int:
        """Return how many trainings its group has."""
        return self.num_folds * (1 if self.seed is None else len(self.model.seeds))

    @property
    def is_capped(self) -> bool:
        """Whether a preset left out cases of the split."""
        tested = sum(len(found.cases) for found in self.evaluation_sets if found.name != VALIDATION)
        return len(self.train) + len(self.val) + tested < self.num_uncapped_cases

    @property
    def cases(self) -> tuple[Case, ...]:
        """Every case of the training, each once, sorted."""
        evaluated = {case for evaluation in self.evaluation_sets for case in evaluation.cases}
        return tuple(sorted({*self.train, *self.val, *evaluated}))


def training_id(group: str, *, seed: int | None, fold: int) -> str:
    """Return the id of a training."""
    return f"{group}{'' if seed is None else f'-seed{seed}'}-fold{fold}"
