"""Whether what `tables.yaml` and published scores name is there in the study."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from orchestrator.benchmark.checks.names import check_letter_case
from orchestrator.benchmark.definition import VALIDATION
from orchestrator.benchmark.presets import find_preset
from orchestrator.benchmark.published import PublishedScores
from orchestrator.benchmark.study import Study
from orchestrator.benchmark.study_file import CaseGroupsEntry, TablesFile
from orchestrator.configuration import expect_known
from orchestrator.errors import ConfigError

_SUMMARY = "summary"
"""Name of the page beside the tables."""
Value = str | int


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownNames:
    """What a study has that its tables may name."""

    facets: Mapping[str, tuple[Value, ...]]
    """Facet to its values."""
    groups: tuple[str, ...]
    """Of the trainings, with the suffixes of their models."""
    evaluation_sets: tuple[str, ...]
    structures: tuple[str, ...]
    cases: tuple[str, ...]
    """`DATASET/CASE`."""


def known_names(study: Study) -> KnownNames:
    """Return what the tables of a study may name."""
    # Names are the same with every preset; this one refuses least.
    trainings = study.all_trainings(preset=find_preset("paper"))
    facets: dict[str, dict[Value, None]] = {}
    for training in trainings:
        for name, value in training.facets.items():
            facets.setdefault(name, {})[value] = None
    sets = [VALIDATION, *(one.name for group in study.groups for one in group.evaluations)]
    structures = [one.name for label_set in study.label_sets for one in label_set.structures]
    return KnownNames(
        facets={name: tuple(values) for name, values in facets.items()},
        groups=tuple(dict.fromkeys(training.group for training in trainings)),
        evaluation_sets=tuple(dict.fromkeys(sets)),
        structures=tuple(dict.fromkeys(structures)),
        cases=tuple(f"{name}/{case}" for name, found in study.cases.items() for case in found.everything),
    )


def check_tables(content: TablesFile, known: KnownNames, *, where: str) -> None:
    """Raise ConfigError, with the nearest name, for a name in `tables.yaml` that the study does not have."""
    for name, table in content.tables.items():
        if name.casefold() == _SUMMARY:
            raise ConfigError(f"{where}: tables.{name}: is the page beside the tables; expected another name")
        for facet, values in table.facets.items():
            several = values if isinstance(values, list) else [values]
            _check_facets([(facet, value) for value in several], known, where=f"{where}: tables.{name}.facets")
    check_letter_case(content.tables, where=f"{where}: tables", what="tables")
    _check_sets(content.evaluation_sets, known, where=f"{where}: evaluation_sets")
    _check_structures(content.notes, known, where=f"{where}: notes")
    _check_structures(content.segments, known, where=f"{where}: segments")
    for name, derived in content.derived.items():
        for key in ("part", "whole", "rather_than"):
            _check_structures(getattr(derived, key), known, where=f"{where}: derived.{name}.{key}")
    for name, gap in content.gaps.items():
        _check_sets([gap.baseline], known, where=f"{where}: gaps.{name}.baseline")
        _check_sets([gap.against], known, where=f"{where}: gaps.{name}.against")
        _check_facets(gap.facets.items(), known, where=f"{where}: gaps.{name}.facets")
    for name, groups in content.case_groups.items():
        _check_cases(groups, known, where=f"{where}: case_groups.{name}.cases")
    for name, asked in content.comparisons.items():
        place = f"{where}: comparisons.{name}"
        _check_facets(asked.baseline.items(), known, where=f"{place}.baseline")
        _check_facets(asked.against.items(), known, where=f"{place}.against")
        expect_known(asked.same, known.facets, where=f"{place}.same", what="facet")
        _check_sets(asked.evaluation_sets, known, where=f"{place}.evaluation_sets")
        _check_structures(asked.structures, known, where=f"{place}.structures")


def check_published(published: PublishedScores, known: KnownNames, *, scores: Path, errata: Path) -> None:
    """Raise ConfigError, with the nearest name, for what published scores name and the study does not have."""
    for group, _, evaluation_set, structure in published.scores:
        expect_known([group], known.groups, where=str(scores), what="group")
        _check_sets([evaluation_set], known, where=str(scores))
        _check_structures([structure], known, where=str(scores))
    for erratum in published.errata:
        expect_known(erratum.groups, known.groups, where=f"{errata}: {erratum.id}.groups", what="group")


def _check_facets(facets: Iterable[tuple[str, Value]], known: KnownNames, *, where: str) -> None:
    for name, value in facets:
        expect_known([name], known.facets, where=where, what="facet")
        by_text = {str(one): one for one in known.facets[name]}
        expect_known([str(value)], by_text, where=f"{where}.{name}", what="value")
        if by_text[str(value)] != value:
            raise ConfigError(f"{where}.{name}: {value!r}; expected {by_text[str(value)]!r} as in the study")


def _check_sets(names: Iterable[str], known: KnownNames, *, where: str) -> None:
    expect_known(names, known.evaluation_sets, where=where, what="evaluation set")


def _check_structures(names: Iterable[str], known: KnownNames, *, where: str) -> None:
    expect_known(names, known.structures, where=where, what="structure")


def _check_cases(groups: CaseGroupsEntry, known: KnownNames, *, where: str) -> None:
    for kind, patterns in groups.cases.items():
        for pattern in patterns:
            if not any(fnmatchcase(case, pattern) for case in known.cases):
                near = difflib.get_close_matches(pattern, known.cases, n=1) or known.cases[:1]
                raise ConfigError(
                    f"{where}.{kind}: {pattern!r} matches none of {len(known.cases)} cases; expected DATASET/CASE, "
                    f"such as {near[0]}"
                )
