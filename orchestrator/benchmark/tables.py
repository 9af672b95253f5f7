"""Which tables a study has, which trainings stand in each, and which published values beside them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.benchmark.checks.tables import KnownNames, check_published, check_tables, known_names
from orchestrator.benchmark.definition import TRAINING_SEED, VALIDATION, FurtherMetric, Training
from orchestrator.benchmark.published import PublishedScores
from orchestrator.benchmark.study import Study
from orchestrator.benchmark.study_file import (
    CaseGroupsEntry,
    ComparisonEntry,
    GapEntry,
    PublishedEntry,
    TableEntry,
    TablesFile,
)
from orchestrator.benchmark.trainings.ensembles import GROUP, MODEL
from orchestrator.configuration import expect_known, load_yaml, understood
from orchestrator.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class TableSpec:
    """One table: its trainings are those with these facets."""

    name: str
    """Of its files."""
    title: str
    facets: Mapping[str, tuple[str | int, ...]] = field(default_factory=dict)
    """Facet to the values that it may have."""
    rows: tuple[str, ...] = ()
    """With `columns`: facets whose values make the lines; all in which its groups differ if empty."""
    columns: str | None = None
    """Facet whose values stand side by side."""

    def holds(self, training: Training) -> bool:
        """Whether a training belongs to the table."""
        return all(training.facets.get(name) in values for name, values in self.facets.items())


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonSpec:
    """Two kinds of trainings that are compared; the tests of one such question are one family."""

    name: str
    title: str
    baseline: Mapping[str, str | int]
    """Facets of the trainings that others are compared with."""
    against: Mapping[str, str | int]
    """Facets of those others."""
    same: tuple[str, ...] = ()
    """Facets that must be equal in both; if empty, all that neither of them names."""
    evaluation_sets: tuple[str, ...] = ()
    """In which it is asked; in all if empty, and so are the following."""
    structures: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()

    def asks(self, evaluation_set: str, structure: str, metric: str) -> bool:
        """Whether a difference is part of the question."""
        asked = (self.evaluation_sets, evaluation_set), (self.structures, structure), (self.metrics, metric)
        return all(not names or name in names for names, name in asked)

    def key(self, training: Training) -> tuple[object, ...]:
        """Return what two trainings must have in common to be compared."""
        # Seeds are trainings of one group, as folds are.
        others = set(training.facets) - set(self.baseline) - set(self.against) - {TRAINING_SEED}
        names = self.same or tuple(sorted(others))
        # Models of one group differ in nothing else.
        of_models = not self.same and {*self.baseline, *self.against} == {MODEL}
        group = training.base_group if of_models else None
        return (group, *(training.facets.get(name) for name in names))


def of_group(training: Training) -> dict[str, str | int]:
    """Return the facets that all trainings of a group have: seeds are trainings of one group, as folds are."""
    return {name: value for name, value in training.facets.items() if name != TRAINING_SEED}


def told_apart(spec: TableSpec, trainings: Iterable[Training]) -> dict[str, dict[str, str | int]]:
    """Return by what the lines and columns of a table tell its groups apart.

    These are their facets. Where models stand side by side and facets do not tell whose they are, it is also the name
    that their group has in the study file: nothing but their model distinguishes those of one name.
    """
    groups = {training.group: training for training in trainings if spec.holds(training)}
    facets = {group: of_group(training) for group, training in groups.items()}
    if spec.columns != MODEL or spec.rows or _in_one_cell(spec, facets) is None:
        return facets
    return {group: {GROUP: groups[group].base_group, **own} for group, own in facets.items()}


def compared_groups(spec: ComparisonSpec, trainings: Sequence[Training]) -> list[tuple[Training, Training]]:
    """Return the groups that a question compares, the baseline first, each by the first of its trainings."""
    first: dict[str, Training] = {}
    for training in trainings:
        first.setdefault(training.group, training)
    return [
        (baseline, against)
        for against in first.values()
        if _fits(against, spec.against)
        for baseline in first.values()
        if _fits(baseline, spec.baseline)
        and spec.key(baseline) == spec.key(against)
        and baseline.group != against.group
    ]


def _fits(training: Training, facets: Mapping[str, str | int]) -> bool:
    return all(training.facets.get(name) == value for name, value in facets.items())


@dataclass(frozen=True, kw_only=True, slots=True)
class TableLayout:
    """All tables of a study."""

    specs: tuple[TableSpec, ...]
    """Those without a training in a run are not written."""
    set_titles: Mapping[str, str] = field(default_factory=lambda: {VALIDATION: "validation"})
    """Evaluation set to its title; another has its name."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Structure to a sentence that stands with its scores."""
    published: PublishedScores = field(default_factory=PublishedScores)
    """What stands beside the scores of a run."""
    comparisons: tuple[ComparisonSpec, ...] = ()
    """What the study asks."""
    gaps: tuple[GapEntry, ...] = ()
    case_groups: tuple[CaseGroupsEntry, ...] = ()
    references: str = ""
    """BibTeX of the study's own."""
    metrics: tuple[FurtherMetric, ...] = ()
    """What stands beside DSC and NSD."""

    @property
    def has_published(self) -> bool:
        """Whether there are published values."""
        return bool(self.published.scores)

    def notes_on(self, structures: Iterable[str]) -> tuple[str, ...]:
        """Return what stands with scores of these structures."""
        there = set(structures)
        return tuple(text for structure, text in self.notes.items() if structure in there)


def load_tables(study: Study) -> TableLayout:
    """Return the tables of a study: what `tables.yaml` beside its file says, and where it says none one of everything.

    Raises ConfigError if a file has an unknown key or a wrong value, or names something that is not in the study.
    """
    path = study.path.with_name("tables.yaml")
    content, published = _read(path, study) if path.exists() else (TablesFile(), PublishedScores())
    # The best of many trials on the cases on which it was chosen is better than it is: nothing is asked of those.
    asked = () if study.is_search else _of_models(study)
    return TableLayout(
        metrics=study.metrics,
        specs=tuple(
            _table(name, entry, study=study, where=f"{path}: tables.{name}") for name, entry in content.tables.items()
        )
        or (_of_everything(study),),
        set_titles={VALIDATION: "validation"} | content.evaluation_sets,
        notes=content.notes,
        published=published,
        comparisons=tuple(_comparison(name, entry) for name, entry in content.comparisons.items()) or asked,
        gaps=tuple(content.gaps.values()),
        case_groups=tuple(content.case_groups.values()),
        references=_text(path.parent / content.references) if content.references else "",
    )


def _read(path: Path, study: Study) -> tuple[TablesFile, PublishedScores]:
    """Return what a file says, and what is published by it."""
    content, known = understood(load_yaml(path), TablesFile, where=str(path)), known_names(study)
    check_tables(content, known, where=str(path))
    if content.published is None:
        return content, PublishedScores()
    return content, _published(content.published, known, folder=path.parent)


def _table(name: str, entry: TableEntry, *, study: Study, where: str) -> TableSpec:
    spec = TableSpec(
        name=name,
        title=entry.title,
        facets={key: tuple(v) if isinstance(v, list) else (v,) for key, v in entry.facets.items()},
        rows=tuple(entry.rows),
        columns=entry.columns,
    )
    _check_cells(spec, study, where=where)
    return spec


def _of_everything(study: Study) -> TableSpec:
    """Return the table of a study that says nothing of tables: its models stand side by side where that is all."""
    spec = TableSpec(name="results", title=study.title)
    beside = replace(spec, columns=MODEL)
    return beside if len(study.models) > 1 and _in_one_cell(beside, _told_apart(beside, study)) is None else spec


def _check_cells(spec: TableSpec, study: Study, *, where: str) -> None:
    """Raise ConfigError if a table cannot be laid out as it says."""
    if spec.columns is None:
        if spec.rows:
            raise ConfigError(f"{where}.rows: expected only with `columns`, a facet whose values stand side by side")
        return
    facets_of = _told_apart(spec, study)
    known = dict.fromkeys(name for facets in facets_of.values() for name in facets)
    expect_known([spec.columns, *spec.rows], known, where=where, what="facet")
    if both := _in_one_cell(spec, facets_of):
        raise ConfigError(
            f"{where}: {' and '.join(both)} would stand in one cell; expected `rows` or `columns` in which they differ"
        )


def _told_apart(spec: TableSpec, study: Study) -> dict[str, dict[str, str | int]]:
    return told_apart(spec, study.trainings_by_any_preset())


def _in_one_cell(spec: TableSpec, facets_of: Mapping[str, Mapping[str, str | int]]) -> tuple[str, str] | None:
    """Return two groups that rows and columns of a table do not tell apart, if there are any."""
    cells: dict[tuple[object, ...], str] = {}
    for group, facets in facets_of.items():
        names = (spec.columns, *spec.rows) if spec.rows else sorted(facets)
        cell = tuple((name, facets.get(name or "")) for name in names)
        if (other := cells.setdefault(cell, group)) != group:
            return other, group
    return None


def _published(entry: PublishedEntry, known: KnownNames, *, folder: Path) -> PublishedScores:
    scores, errata = folder / entry.scores, folder / entry.errata
    published = PublishedScores.read(scores=scores, errata=errata)
    check_published(published, known, scores=scores, errata=errata)
    return published


def _comparison(name: str, entry: ComparisonEntry) -> ComparisonSpec:
    return ComparisonSpec(
        name=name,
        title=entry.title,
        baseline=entry.baseline,
        against=entry.against,
        same=tuple(entry.same),
        evaluation_sets=tuple(entry.evaluation_sets),
        structures=tuple(entry.structures),
        metrics=tuple(entry.metrics),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); expected a text file that tables.yaml names") from error


def _of_models(study: Study) -> tuple[ComparisonSpec, ...]:
    """Return the comparison of all models with the first one of a study: one question, so that chance counts once."""
    first, *others = study.names_of_models
    if not others:
        return ()
    what = others[0] if len(others) == 1 else "Models"
    return (
        ComparisonSpec(
            name=f"{what}-against-{first}",
            title=f"{what} against {first}",
            baseline={MODEL: first},
            against={},
        ),
    )
