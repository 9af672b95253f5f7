"""Reads the benchmark from `splits/`, strictly, and checks its invariants."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any, get_args

from orchestrator.benchmark.checks import check_benchmark
from orchestrator.benchmark.definition import Case, Dataset, LabelSet, Network, Structure
from orchestrator.benchmark.matrix import COVID, MATRICES, MOSMED, Benchmark, SourceSplit, TrainingRow
from orchestrator.configuration import Section, load_yaml
from orchestrator.errors import ConfigError

SPLITS = Path(__file__).resolve().parents[2] / "splits"


def load_benchmark(path: Path | None = None) -> Benchmark:
    """Return the benchmark that a file defines; its folds are in `folds.yaml` beside it.

    Parameters
    ----------
    path
        The benchmark file; None for the one of this project.

    Raises
    ------
    ConfigError
        If a file is missing, has an unknown key or a wrong value, or if an invariant of the splits does not hold.
    """
    path = SPLITS / "benchmark.yaml" if path is None else path
    folds_path = path.with_name("folds.yaml")
    content, folds = Section(load_yaml(path), where=str(path)), Section(load_yaml(folds_path), where=str(folds_path))
    covid_folds = tuple(
        tuple(_names(fold, where=f"{folds_path}: fold {i}"))
        for i, fold in enumerate(folds.take("covid_ct_seg_training_folds", list))
    )
    source_splits = _source_splits(folds)
    case_names = {COVID: [name for fold in covid_folds for name in fold]}
    case_names[MOSMED] = _names(folds.take("mosmed", list), where=f"{folds_path}: mosmed")
    case_names |= {name: [*split.train, *split.val] for name, split in source_splits.items()}
    folds.finish()
    label_sets = _label_sets(content)
    datasets = _datasets(content, case_names=case_names, label_sets=label_sets, where=str(path))
    benchmark = Benchmark(
        label_sets=label_sets,
        datasets=datasets,
        patients_with_several_scans=_patients(content, datasets=datasets, where=str(path)),
        rows=tuple(
            _row(Section(row, where=f"{path}: trainings[{i}]"), datasets=datasets, label_sets=label_sets)
            for i, row in enumerate(content.take("trainings", list))
        ),
        covid_folds=covid_folds,
        source_splits=source_splits,
        sha256=hashlib.sha256(path.read_bytes() + folds_path.read_bytes()).hexdigest(),
    )
    content.finish()
    check_benchmark(benchmark, where=str(folds_path))
    return benchmark


def _label_sets(content: Section) -> tuple[LabelSet, ...]:
    label_sets = []
    for name, section in Section(content.take("label_sets", dict), where=f"{content.where}: label_sets").sections():
        structures = []
        for structure_name, fields in section.sections():
            label, tolerance_mm = fields.take("label", int), fields.take("tolerance_mm", float)
            fields.finish()
            structures.append(Structure(name=structure_name, label=label, tolerance_mm=tolerance_mm))
        if [structure.label for structure in structures] != list(range(1, len(structures) + 1)):
            found = [structure.label for structure in structures]
            raise ConfigError(f"{section.where}: labels are {found}; expected 1, 2, ... in this order")
        label_sets.append(LabelSet(name=name, structures=tuple(structures)))
    return tuple(label_sets)


def _datasets(
    content: Section, *, case_names: dict[str, list[str]], label_sets: tuple[LabelSet, ...], where: str
) -> tuple[Dataset, ...]:
    known = {label_set.name for label_set in label_sets}
    datasets = []
    for name, fields in Section(content.take("datasets", dict), where=f"{where}: datasets").sections():
        if name not in case_names:
            raise ConfigError(f"{fields.where}: has no cases in folds.yaml; expected one of {', '.join(case_names)}")
        names = _names(fields.take("label_sets", list), where=f"{fields.where}: label_sets")
        if unknown := sorted(set(names) - known):
            raise ConfigError(f"{fields.where}: unknown label sets {unknown}; expected some of {sorted(known)}")
        datasets.append(
            Dataset(
                name=name,
                title=fields.take("title", str),
                download=fields.take("download", str),
                label_sets=tuple(names),
                case_names=tuple(sorted(case_names[name])),
            )
        )
        fields.finish()
    if missing := sorted(set(case_names) - {dataset.name for dataset in datasets}):
        raise ConfigError(f"{where}: datasets lacks {', '.join(missing)}, which folds.yaml names")
    return tuple(datasets)


def _source_splits(folds: Section) -> dict[str, SourceSplit]:
    splits = {}
    for name, section in Section(folds.take("sources", dict), where=f"{folds.where}: sources").sections():
        train, val = (tuple(_names(section.take(part, list), where=section.where)) for part in ("train", "val"))
        section.finish()
        splits[name] = SourceSplit(train=train, val=val)
    return splits


def _patients(content: Section, *, datasets: tuple[Dataset, ...], where: str) -> tuple[tuple[Case, ...], ...]:
    cases = {(dataset.name, name) for dataset in datasets for name in dataset.case_names}
    patients = []
    for i, item in enumerate(content.take("patients_with_several_scans", list)):
        section = Section(item, where=f"{where}: patients_with_several_scans[{i}]")
        dataset = section.take("dataset", str)
        names = _names(section.take("cases", list), where=f"{section.where}: cases")
        section.finish()
        if unknown := [name for name in names if (dataset, name) not in cases]:
            raise ConfigError(f"{section.where}: {dataset} has no case {', '.join(unknown)}")
        patients.append(tuple(Case(dataset=dataset, name=name) for name in names))
    return tuple(patients)


def _row(section: Section, *, datasets: tuple[Dataset, ...], label_sets: tuple[LabelSet, ...]) -> TrainingRow:
    task = section.choose("task", (1, 2, 3))
    subtask = section.choose("subtask", tuple(label_set.name for label_set in label_sets))
    source, dataset, split = "covid", COVID, "20-80"
    if task == 1:
        split = section.choose("split", ("20-80", "80-20"), default=split)
    else:
        source = section.take("source", str)
        dataset = section.choose("dataset", tuple(dataset.name for dataset in datasets))
    networks = Section(section.take("matrix", dict), where=f"{section.where}: matrix")
    chosen = {network: networks.choose(network, (*MATRICES[:-1], ""), default="") for network in get_args(Network)}
    networks.finish()
    section.finish()
    offered = next(item.label_sets for item in datasets if item.name == dataset)
    if subtask not in offered:
        raise ConfigError(
            f"{section.where}: {dataset} has no label set {subtask}; expected one of {', '.join(offered)}"
        )
    return TrainingRow(
        task=task,
        subtask=subtask,
        source=source,
        dataset=dataset,
        split="80-20" if split == "80-20" else "20-80",
        matrix={network: name for network, name in chosen.items() if name},
    )


def _names(value: Any, *, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"{where}: found {value!r}; expected a list of names")
    if repeated := [name for name, number in Counter(value).items() if number > 1]:
        raise ConfigError(f"{where}: {', '.join(repeated)} stands twice")
    return value
