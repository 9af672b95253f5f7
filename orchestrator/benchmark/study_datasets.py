"""Understands which data sets and label sets a study has: from its files, and from what data sets say of themselves."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.benchmark.checks.names import check_case_names, check_letter_case
from orchestrator.benchmark.definition import NNUNET_RAW, Dataset, LabelSet, Structure
from orchestrator.benchmark.folds import TEST_PART, DatasetCases, divided, listed_cases, with_parts, with_patients
from orchestrator.benchmark.raw_dataset import Describe, RawDataset, check_channels, check_values, label_values
from orchestrator.benchmark.study_file import (
    IGNORE,
    DatasetEntry,
    FoldRule,
    FoldsFile,
    SplitFile,
    StructureEntry,
    StudyFile,
)
from orchestrator.configuration import expect_known
from orchestrator.errors import ConfigError, OrchestratorError

_CT = ("CT",)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadDataset:
    """A data set as a study has it."""

    dataset: Dataset
    cases: DatasetCases
    own_label_set: LabelSet | None
    """What its `dataset.json` says, where the study does not."""
    read_file: bytes
    """Content of a file that divides its cases; empty if none does."""
    is_described: bool
    """Whether something of it is not in the study's files."""


def label_set_of(name: str, entries: Mapping[str, StructureEntry], *, where: str) -> LabelSet:
    """Return a label set of a study file; raises ConfigError for labels that nnU-Net could not learn."""
    structures = tuple(
        Structure(name=key, label=entry.label, tolerance_mm=entry.tolerance_mm, region=tuple(entry.region))
        for key, entry in entries.items()
        if key != IGNORE
    )
    ignored = entries[IGNORE].label if IGNORE in entries else None
    return _checked(LabelSet(name=name, structures=structures, ignored_label=ignored), where=f"{where}: label_sets")


class DatasetReader:
    """Understands the part `datasets` of a study file."""

    def __init__(
        self,
        file: StudyFile,
        *,
        listed: FoldsFile | None,
        label_sets: Mapping[str, LabelSet],
        describe: Describe | None,
        path: Path,
    ) -> None:
        self._file = file
        self._listed = listed.datasets if listed else {}
        self._label_sets = label_sets
        self._describe = describe
        self._path = path

    def read(self, name: str) -> ReadDataset:
        """Return one data set, with everything that it names checked."""
        entry, where = self._file.datasets[name], f"{self._path}: datasets.{name}"
        if (entry.source is None) == (entry.nnunet is None):
            raise ConfigError(f"{where}: expected either `source` or `nnunet`, the folder of a data set of nnU-Net's")
        if entry.nnunet is None:
            self._check_source(name, entry, where=where)
        raw = self._raw(name, entry, where=where)
        cases, read_file = self._cases(name, entry, raw=raw, where=where)
        own = _own_label_set(name, raw, entry=entry, where=where) if raw and not entry.label_sets else None
        label_sets = {own.name: own} if own else {one: self._label_sets[one] for one in entry.label_sets}
        dataset = Dataset(
            name=name,
            title=entry.title or name,
            source=entry.source or NNUNET_RAW,
            folder=(raw.folder if raw else entry.nnunet) or entry.source or "",
            channels=tuple(entry.channels) or (raw.channels if raw else _CT),
            label_sets=tuple(label_sets),
            case_names=cases.everything,
            num_slices=_num_slices(entry, raw),
            file_ending=raw.file_ending if raw else ".nii.gz",
            reader=raw.reader if raw else "SimpleITKIO",
            label_values={
                one.name: _label_values(one, raw, entry=entry, where=where)
                for one in label_sets.values()
                if entry.nnunet is not None
            },
        )
        seen = raw or self._seen(entry)
        if seen:
            check_channels(dataset.channels, seen, where=where)
            for one, values in dataset.label_values.items():
                check_values(values, label_sets[one], seen, named=entry.values, where=where)
        return ReadDataset(
            dataset=dataset,
            cases=cases,
            own_label_set=own,
            read_file=read_file,
            is_described=raw is not None,
        )

    def _check_source(self, name: str, entry: DatasetEntry, *, where: str) -> None:
        if not entry.label_sets:
            raise ConfigError(f"{where}: key 'label_sets' is missing")
        if name not in self._listed:
            raise ConfigError(f"{self._path.with_name('folds.yaml')}: no cases of {name}; expected a list of them")
        for key in ("values", "channels"):
            if getattr(entry, key):
                raise ConfigError(f"{where}: {key} of a download are known; expected it only beside `nnunet`")

    def _raw(self, name: str, entry: DatasetEntry, *, where: str) -> RawDataset | None:
        """Return what a data set says of itself, where that is needed; None for what the files tell themselves."""
        expect_known(entry.label_sets, self._label_sets, where=f"{where}.label_sets", what="label set")
        is_whole = entry.label_sets and name in self._listed and entry.channels
        if entry.nnunet is None or is_whole:
            return None
        if self._describe is None:
            raise ConfigError(
                f"{where}: label_sets, channels and cases that do not stand in the files of the study are read from "
                f"{entry.nnunet}/dataset.json; expected --data with the folder of {entry.nnunet}"
            )
        return self._describe(entry.nnunet)

    def _seen(self, entry: DatasetEntry) -> RawDataset | None:
        """Return what a data set says of which the study says everything; None if it is not there to be asked."""
        if entry.nnunet is None or self._describe is None:
            return None
        try:
            return self._describe(entry.nnunet)
        except OrchestratorError:
            # Whoever reads its files says what is wrong with them.
            return None

    def _cases(
        self, name: str, entry: DatasetEntry, *, raw: RawDataset | None, where: str
    ) -> tuple[DatasetCases, bytes]:
        """Return the cases and how they are divided, with the content of the file that says so, if there is one."""
        if name in self._listed:
            listed_in = f"{self._path.with_name('folds.yaml')}: {name}"
            cases = listed_cases(self._listed[name], where=listed_in)
            check_case_names(cases.everything, where=listed_in)
        else:
            assert raw is not None
            cases = listed_cases([*raw.cases, *raw.test_cases], where=f"{where}: {raw.folder}")
            if raw.test_cases:
                cases = with_parts(cases, {TEST_PART: raw.test_cases}, where=where)
            check_letter_case(cases.everything, where=f"{where}: {raw.folder}", what="cases")
        cases = with_parts(cases, entry.held_out, where=f"{where}.held_out") if entry.held_out else cases
        content = b""
        if entry.folds is not None:
            if cases.folds:
                raise ConfigError(f"{where}: folds stand in folds.yaml as well; expected one of the two")
            rule = _by_patient(entry.folds, entry.patients, where=where)
            cases, content = divided(cases, rule, folder=self._path.parent, where=f"{where}.folds")
        if entry.patients is None:
            return cases, content
        cases, patients = with_patients(cases, self._path.parent / entry.patients)
        return cases, content + patients


def _by_patient(rule: str | FoldRule | SplitFile, patients: str | None, *, where: str) -> str | FoldRule | SplitFile:
    """Return a rule with the file of patients of its data set, where the rule has a use for it."""
    if patients is None or not isinstance(rule, FoldRule):
        return rule
    if rule.patients is not None:
        raise ConfigError(f"{where}: patients stand in folds as well; expected one of the two")
    return rule.model_copy(update={"patients": patients})


def _num_slices(entry: DatasetEntry, raw: RawDataset | None) -> int:
    """Return what the study says, or what the files of the data set show."""
    is_said = "slices" in entry.model_fields_set
    return raw.num_slices if raw and raw.num_slices and not is_said else entry.slices


def _own_label_set(name: str, raw: RawDataset, *, entry: DatasetEntry, where: str) -> LabelSet:
    """Return the label set that `dataset.json` describes."""
    tolerances = (
        entry.tolerance_mm if isinstance(entry.tolerance_mm, dict) else dict.fromkeys(raw.labels, entry.tolerance_mm)
    )
    expect_known(tolerances, raw.labels, where=f"{where}.tolerance_mm", what="structure")
    ordered = list(raw.labels) if raw.regions_class_order else sorted(raw.labels, key=raw.labels.__getitem__)
    structures = tuple(
        Structure(
            name=structure,
            label=raw.regions_class_order[index] if raw.regions_class_order else raw.labels[structure][0],
            tolerance_mm=tolerances.get(structure, 1.0),
            region=raw.labels[structure] if raw.regions_class_order else (),
        )
        for index, structure in enumerate(ordered)
    )
    own = LabelSet(name=name, structures=structures, ignored_label=raw.ignored_label)
    return _checked(own, where=f"{where}: {raw.folder}/dataset.json")


def _label_values(label_set: LabelSet, raw: RawDataset | None, *, entry: DatasetEntry, where: str) -> dict[int, int]:
    """Return what the values of a data set's masks become in a label set, with those that are ignored."""
    found = label_values(label_set, raw, named=entry.values, where=where)
    ignored = raw.ignored_label if raw else label_set.ignored_label
    if ignored is not None and label_set.ignored_label is None:
        raise ConfigError(
            f"{where}: its masks have an ignored label ({ignored}) and label set {label_set.name} has none; expected "
            f"a structure `{IGNORE}` with a label of its own there"
        )
    return found | ({ignored: label_set.ignored_label} if ignored and label_set.ignored_label else {})


def _checked(label_set: LabelSet, *, where: str) -> LabelSet:
    """Return a label set; raises ConfigError if its labels are not 1, 2, ... as nnU-Net wants them."""
    labels = [structure.label for structure in label_set.structures]
    numbers = list(range(1, len(label_set.labels) + 1))
    in_order = labels == numbers[: len(labels)] or label_set.has_regions
    if not labels or not in_order or list(label_set.labels) != numbers:
        raise ConfigError(
            f"{where}.{label_set.name}: labels are {labels if not label_set.has_regions else list(label_set.labels)}; "
            "expected 1, 2, ... in this order"
        )
    if label_set.has_regions and (len(set(labels)) < len(labels) or not set(labels) <= set(label_set.labels)):
        raise ConfigError(f"{where}.{label_set.name}: regions write {labels}; expected a label of its own for each")
    if label_set.ignored_label is not None and label_set.ignored_label != numbers[-1]:
        raise ConfigError(
            f"{where}.{label_set.name}: the ignored label is {label_set.ignored_label}; expected the highest, "
            f"{numbers[-1]}"
        )
    return label_set
