"""What a study file and the files beside it may hold; how it is understood is in study.py."""

from collections.abc import Iterator
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, field_validator
from pydantic.fields import FieldInfo

from orchestrator.benchmark.presets import ModelChanges, PresetEntry
from orchestrator.configuration import Entry

FOLD, OTHER_FOLDS, ALL, REST = "fold", "other-folds", "all", "rest"
"""Parts of a data set that need no name: the cases of a training's own fold, those that go with it, every case, and
those that are in no part that has a name."""
IGNORE = "ignore"
"""Name in a label set, as in nnU-Net's, of the label of voxels that nobody has annotated."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
"""Becomes part of file names."""


def _printable(name: str) -> str:
    if not name.strip() or not name.isprintable():
        raise ValueError("a name that can be read in one line")
    return name


StructureName = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_printable)]
"""As `dataset.json` may have it, with spaces and letters of any language: no file is named after it."""
WholeNumber = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
"""As a column of the results holds it."""


def _in_a_cell(value: str) -> str:
    if not value or value != value.strip() or not value.isprintable():
        raise ValueError("a text that can be read in one line, without spaces around it")
    return value


FacetText = Annotated[str, AfterValidator(_in_a_cell)]
"""Told from another, and from none, where it stands in a table."""
Facets = dict[Name, FacetText | WholeNumber]
Tolerance = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""Of the NSD, in mm."""


def _beside(name: str) -> str:
    if not name or "/" in name or "\\" in name or name in {".", ".."}:
        raise ValueError("the name of a file beside this one")
    return name


_OF_THE_STUDY = "file of the study"
NamedFile = Annotated[str, _OF_THE_STUDY]
"""Name of a file, from the folder of this one: what goes with a study is found by this mark."""
FileBeside = Annotated[NamedFile, AfterValidator(_beside)]
"""Name of a file in the folder of this one."""
Parts = dict[Name, Annotated[list[str], Field(min_length=1)]]
"""Cases of a data set by the name of a part; no case is in two of them."""


def names_a_file(field: FieldInfo) -> bool:
    """Whether the value of a field is the name of a file that belongs to the study, if it is a text."""
    return _OF_THE_STUDY in field.metadata or any(_OF_THE_STUDY in get_args(one) for one in get_args(field.annotation))


def named_files(content: Entry) -> Iterator[str]:
    """Yield the names of the files that belong to a study, in the order in which a file of the study has them."""
    for name, field in type(content).model_fields.items():
        value = getattr(content, name)
        if isinstance(value, str) and names_a_file(field):
            yield value
        for part in value.values() if isinstance(value, dict) else (value,):
            if isinstance(part, Entry):
                yield from named_files(part)


class StructureEntry(Entry):
    """A structure, below its name."""

    label: Annotated[int, Field(ge=1, le=255)]
    """Its value in the label map; 1, 2, ... in the order of the file. Of a region: what predictions write there, a
    later region over an earlier one."""
    region: list[Annotated[int, Field(ge=1, le=255)]] = []
    """Labels that make up the structure, where it is a region that overlaps others."""
    tolerance_mm: Tolerance = 1.0
    """Tolerance of the normalised surface Dice (NSD)."""


class FoldRule(Entry):
    """How the cases of a data set are divided into folds that do not stand in `folds.yaml`."""

    number: Annotated[int, Field(ge=2)] = 5
    """Folds."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 12345
    """Of the order in which cases, or patients, are drawn; the default is nnU-Net's."""
    patients: NamedFile | None = None
    """CSV file beside this one with the columns `case` and `patient`: all cases of a patient are in one fold."""


class SplitFile(Entry):
    """Folds as nnU-Net writes them."""

    file: NamedFile
    """`splits_final.json` beside this file."""


class DatasetEntry(Entry):
    """A data set, below its name."""

    title: str = ""
    """As tables print it; its name unless given."""
    source: Name | None = None
    """The layout of files of a public download, which is also its folder."""
    nnunet: Name | None = None
    """Instead of a source: the folder of a data set in nnU-Net's raw layout, `DatasetNNN_Name`."""
    label_sets: list[Name] = []
    """Names of the label sets that its cases have. One in nnU-Net's layout has one of its own name unless given, which
    is what its `dataset.json` says."""
    channels: list[str] = []
    """Images of a case, by what nnU-Net calls them; what `dataset.json` says, or `CT`, unless given."""
    values: dict[StructureName, Annotated[int, Field(ge=1, le=255)]] = {}
    """Structure to its value in the masks, where `dataset.json` has another name for it."""
    tolerance_mm: Tolerance | dict[StructureName, Tolerance] = 1.0
    """Tolerance of all structures of its own label set, or of each."""
    folds: Literal["nnunet"] | FoldRule | SplitFile | None = None
    """How its cases are divided, if `folds.yaml` does not say so; `nnunet` is as nnU-Net does it: five at random."""
    patients: NamedFile | None = None
    """CSV file beside this one with the columns `case` and `patient`: a patient on both sides of a split is reported,
    and folds of a `number` are drawn patient by patient."""
    held_out: Parts = {}
    """Cases that are in no fold, by the name of a part."""
    slices: Annotated[int, Field(ge=1)] = 120
    """Of a typical case, roughly: how much work it is before anything is read."""


class ModelEntry(Entry):
    """How a training fits its cases, below its name."""

    configuration: Literal["3d_fullres", "3d_lowres", "2d"] = "3d_fullres"
    """Configuration of nnU-Net. Its cascade needs the predictions of another training and is not offered."""
    planner: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")] = "ExperimentPlanner"
    """Class of nnU-Net that plans, such as `nnUNetPlannerResEncM`."""
    trainer: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")] = "nnUNetTrainer"
    """Class that nnU-Net finds and trains with, such as `nnUNetTrainerDiceLoss`."""
    suffix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]*$", max_length=100)] = ""
    """What it adds to the names of its groups of trainings."""
    preset: ModelChanges = {}
    """Fields of any preset that it has otherwise, such as `initial_learning_rate`."""
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = []
    """Each fold is trained once with each of these, so that it is seen how much trainings of one kind differ."""
    note: Annotated[str, Field(max_length=1000)] = ""
    """What tables say of it: that it was tuned, on what, and with how many trials."""

    @field_validator("configuration", mode="before")
    @classmethod
    def _is_no_cascade(cls, configuration: object) -> object:
        if isinstance(configuration, str) and "cascade" in configuration:
            raise ValueError(
                "3d_fullres, 3d_lowres or 2d: a cascade needs the predictions of another training and is not offered"
            )
        return configuration


class EnsembleEntry(Entry):
    """Trainings that predict together, below the name that stands for their model."""

    members: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    """Which trainings: patterns of their names or groups, or FACET=PATTERN, as for `--only`."""
    over: Annotated[list[Name], Field(min_length=1)] = ["model"]
    """What the members of one ensemble differ in: `model`, `fold`, `group`, facets. Trainings that differ in something
    else make ensembles of their own."""
    choose: Annotated[int, Field(ge=1)] | Literal["pair"] | None = None
    """The best so many groups of the members by their validation cases, or `pair`, as nnU-Net does it: the best of all
    groups and of all pairs of them. All unless given."""
    by: Literal["dsc", "nsd"] = "dsc"
    """With `choose`: the score of validation cases that counts."""
    facets: Facets = {}
    """Values to select and tabulate it by, beside those that its members have in common."""


class EvaluationEntry(Entry):
    """Cases to be scored whose masks are of another label set than the training's."""

    cases: str
    """`DATASET/PART`."""
    label_set: Name
    """Of their masks; the structures that both label sets have are scored."""


class TrainingEntry(Entry):
    """Trainings that differ in fold and model alone, below the name of their group."""

    facets: Facets = {}
    """Values to select, group and tabulate them by."""
    label_set: Name | None = None
    """What they learn; that of their first data set, if it has one only, unless given."""
    models: dict[Name, Name] = {}
    """Model to the matrix that its trainings belong to; the first matrix of the file is the default. Every model, in
    one matrix, unless given."""
    train: Annotated[list[str], Field(min_length=1)]
    """Training cases, `DATASET/PART` each."""
    val: list[str] = []
    """Validation cases of their own domain."""
    test: dict[Name, str | EvaluationEntry] = {}
    """Evaluation set to its cases."""
    plans_from: Name | None = None
    """Group whose patch size and network they take over, fold by fold and model by model."""


class CaseLimits(Entry):
    """What a preset says of cases."""

    cases: dict[Name, Annotated[int, Field(ge=1)]]
    """Part of a training (`train`, `val` or an evaluation set) to the most cases of each entry of its list."""


class StudyFile(Entry):
    """A study file."""

    title: str
    """In one line."""
    label_sets: dict[Name, dict[StructureName, StructureEntry]] = {}
    """Label set to its structures."""
    datasets: Annotated[dict[Name, DatasetEntry], Field(min_length=1)]
    """By name; their cases are in `folds.yaml`."""
    patients: list[Annotated[list[str], Field(min_length=2)]] = []
    """Patients with several scans, `DATASET/CASE` each."""
    models: Annotated[dict[Name, ModelEntry], Field(min_length=1)] = {"3d": ModelEntry()}
    """By name."""
    trainings: Annotated[dict[Name, TrainingEntry], Field(min_length=1)]
    """By group, in the order of the tables."""
    ids: Annotated[str, Field(max_length=150)] = ""
    """Template of the ids of trainings, of `{group}`, `{fold}`, `{seed}` and facets. Unless given, it is
    `{group}-fold{fold}`, or `{group}-seed{seed}-fold{fold}` where a model has seeds."""
    ensembles: dict[Name, EnsembleEntry] = {}
    """Trainings whose probabilities are averaged, by name."""
    metrics: list[str] = []
    """What is scored besides DSC, NSD, HD95 and ASSD, by the names that `evaluate --metrics` knows."""
    presets: dict[Name, PresetEntry] = {}
    """What is different here of a preset that comes along, or one of its own, by its name."""


class Folds(Entry):
    """Cases of a data set that is divided into folds."""

    folds: Annotated[list[Annotated[list[str], Field(min_length=1)]], Field(min_length=2)]
    """Each case once."""


class FoldsFile(Entry):
    """Which cases there are: a file `folds.yaml`, by data set."""

    datasets: dict[Name, Folds | Parts | list[str]]


class TableEntry(Entry):
    """A table, below its name."""

    title: str
    """Above the table."""
    facets: dict[Name, str | int | list[str | int]]
    """It holds the trainings whose facets have these values, or one of these."""
    columns: Name | None = None
    """Facet whose values stand side by side, averages over all folds, such as `model`."""
    rows: list[Name] = []
    """With `columns`: facets whose values make its lines; all in which its trainings differ, unless given."""


class ComparisonEntry(Entry):
    """A question that a study asks: whether the trainings of one kind are better than those of another."""

    title: str
    """The question in a few words."""
    baseline: Annotated[Facets, Field(min_length=1)]
    """Facets of the trainings that others are compared with."""
    against: Annotated[Facets, Field(min_length=1)]
    """Facets of those others."""
    same: list[Name] = []
    """Facets that must be equal in both; all that neither of them names, unless given."""
    evaluation_sets: list[Name] = []
    """In which it is asked; in all, unless given."""
    structures: list[str] = []
    """In which it is asked; in all, unless given."""
    metrics: list[Literal["dsc", "nsd"]] = []
    """In which it is asked; in both, unless given."""


class CaseGroupsEntry(Entry):
    """Kinds of cases whose scores are shown by themselves."""

    title: str
    """Above their scores."""
    cases: Annotated[dict[str, Annotated[list[str], Field(min_length=1)]], Field(min_length=1)]
    """Kind to its cases: `DATASET/CASE`, with `*`."""


class GapEntry(Entry):
    """A difference between two evaluation sets, of the same trainings on other patients."""

    title: str
    """The question in a few words."""
    baseline: Name
    """Evaluation set."""
    against: Name
    """Evaluation set: differences are of this one less that one."""
    facets: Facets = {}
    """Of the trainings; all that are evaluated on both, unless given."""


class PublishedEntry(Entry):
    """Files with values of a publication."""

    scores: FileBeside
    """CSV file beside this one."""
    errata: FileBeside
    """YAML file beside this one."""


Code = Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(min_length=3, max_length=3)]
"""Scheme, value and meaning of a concept in DICOM: `[SCT, "10200004", Liver]`."""


class SegmentEntry(Entry):
    """How a structure is called in DICOM Segmentation, below its name."""

    category: Code = ["SCT", "123037004", "Anatomical Structure"]
    """Kind of thing."""
    type: Code
    """The thing itself."""
    region: Code | None = None
    """Where in the body it lies, if its type does not say it."""


class DerivedEntry(Entry):
    """A share that is calculated of each prediction, in percent, below its name."""

    title: str
    """In tables."""
    part: Annotated[list[str], Field(min_length=1)]
    """Structures whose share it is."""
    whole: Annotated[list[str], Field(min_length=1)]
    """In the union of these and the part."""
    rather_than: list[str] = []
    """Voxels of the part count only where they lie nearer to the whole than to these structures, as for one side."""


class TablesFile(Entry):
    """Tables of a study: a file `tables.yaml`."""

    published: PublishedEntry | None = None
    """Values that stand beside those of a run."""
    evaluation_sets: dict[Name, str] = {}
    """Evaluation set to its title."""
    notes: dict[str, str] = {}
    """Structure to a sentence that stands with its scores: what it is, where data sets differ in that."""
    tables: dict[Name, TableEntry] = {}
    """By the name of their files; one of everything unless given."""
    comparisons: dict[Name, ComparisonEntry] = {}
    """What is compared; each model with the first one of the study, unless given."""
    gaps: dict[Name, GapEntry] = {}
    """Differences between evaluation sets."""
    case_groups: dict[Name, CaseGroupsEntry] = {}
    """Kinds of cases whose scores are shown by themselves."""
    references: FileBeside | None = None
    """BibTeX file beside this one: what whoever uses the results cites as well."""
    segments: dict[str, SegmentEntry] = {}
    """Structure to its codes, for predictions as DICOM Segmentation."""
    derived: dict[Name, DerivedEntry] = {}
    """What is calculated of each prediction besides volumes."""
