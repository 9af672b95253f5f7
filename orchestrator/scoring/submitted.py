"""Submissions that stand beside the trainings of a run: what they are scored on, and their scores."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from orchestrator.benchmark.definition import STUDY_METRICS, VALIDATION, EvaluationSet, LabelSet, Training
from orchestrator.benchmark.study import Study
from orchestrator.errors import ConfigError
from orchestrator.images.label_maps import SUFFIXES
from orchestrator.scoring.folders import FolderComparison
from orchestrator.scoring.kept_scores import KeptScores
from orchestrator.scoring.structures import ScoredStructure
from orchestrator.scoring.submissions import Submission
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json, write_json


@dataclass(frozen=True, kw_only=True, slots=True)
class References:
    """Cases of one label set that trainings are tested on, and submissions with them."""

    label_set: str
    scores: KeptScores
    cases: tuple[str, ...]
    """Ids of those whose label map is there."""
    num_absent: int
    """Cases whose label map is not there yet."""


def evaluated(trainings: Sequence[Training]) -> tuple[EvaluationSet, ...]:
    """Return what submissions are scored on: the test sets of all trainings, or where there are none what validates."""
    sets = [found for training in trainings for found in training.evaluation_sets]
    return tuple([found for found in sets if found.name != VALIDATION] or sets)


def evaluated_label_sets(trainings: Sequence[Training]) -> tuple[str, ...]:
    """Return the label sets that submissions are scored in, in the order in which they first occur."""
    return tuple(dict.fromkeys(found.label_set for found in evaluated(trainings)))


def record_submissions(storage: Storage, submissions: Sequence[Submission], *, label_set: str) -> None:
    """Keep which submissions of a label set there are, in place of those of the call before."""
    methods = {one.name: one.folder.location for one in submissions}
    write_json(storage, run_paths.submissions_record(label_set), {"methods": methods})


def recorded_submissions(storage: Storage, *, label_set: str) -> tuple[Submission, ...]:
    """Return the submissions of a label set."""
    key = run_paths.submissions_record(label_set)
    if not storage.exists(key):
        return ()
    methods = read_json(storage, key, {"methods": dict})["methods"]
    return tuple(Submission(name=name, folder=open_storage(folder)) for name, folder in methods.items())


def references_of(
    storage: Storage,
    *,
    study: Study,
    trainings: Sequence[Training],
    submissions: Sequence[Submission],
    label_set: str,
) -> Iterator[References]:
    """Yield what submissions are scored on, in structures that they have.

    Parameters
    ----------
    storage, study, trainings
        Output location of the run, and what it trains.
    submissions, label_set
        Folders with `<data set>/<case>.nii.gz`, or `<case>.nii.gz` where no two data sets have a case of that name, and
        what the values in their label maps mean.

    Raises
    ------
    ConfigError
        If the study has no such label set.
    """
    predicted = study.label_set(label_set)
    # First the one that the label maps are in: another may hold the same structures of the same cases.
    for name in sorted(evaluated_label_sets(trainings), key=lambda name: name != label_set):
        structures = _shared(study.label_set(name), predicted=predicted, trainings=trainings)
        if not structures:
            continue
        tested = {case for found in evaluated(trainings) if found.label_set == name for case in found.cases}
        there = [case for case in sorted(tested) if storage.exists(run_paths.case_labels(case, label_set=name))]
        comparison = FolderComparison(
            reference=storage,
            predictions=tuple(one.folder for one in submissions),
            structures=structures,
            metrics=(*STUDY_METRICS, *(metric.name for metric in study.metrics)),
            dimension=None,
            ignored_label=study.label_set(name).ignored_label,
            reference_key=run_paths.labels_of_cases(label_set=name),
            suffixes=SUFFIXES,
            may_be_flat=len({case.name for case in tested}) == len(tested),
        )
        scores = KeptScores(
            comparison=comparison,
            methods=tuple(one.name for one in submissions),
            parts=storage,
            folder=run_paths.submitted_scores(label_set, references=name),
        )
        cases, num_absent = tuple(case.id for case in there), len(tested) - len(there)
        yield References(label_set=name, scores=scores, cases=cases, num_absent=num_absent)


def _shared(references: LabelSet, *, predicted: LabelSet, trainings: Sequence[Training]) -> tuple[ScoredStructure, ...]:
    """Return the structures of references that trainings are scored in and that a submission has as well."""
    scored = dict.fromkeys(
        structure
        for found in evaluated(trainings)
        if found.label_set == references.name
        for structure in found.structures
    )
    names = {structure.name for structure in predicted.structures}
    return tuple(
        ScoredStructure(
            name=name,
            reference_labels=references.structure(name).labels,
            prediction_labels=predicted.structure(name).labels,
            tolerance_mm=references.structure(name).tolerance_mm,
        )
        for name in scored
        if name in names
    )


def submitted_rows(storage: Storage, *, study: Study, trainings: Sequence[Training]) -> pa.Table | None:
    """Return the scores of all submissions of a run, or None if it has none.

    Columns are those of `KeptScores.rows`, with `evaluation_set` and `references`: a case that several kinds of
    trainings are tested on has a row for each of these.
    """
    tables: list[pa.Table] = []
    for label_set in study.label_sets:
        submissions = recorded_submissions(storage, label_set=label_set.name)
        if not submissions:
            continue
        for found in references_of(
            storage, study=study, trainings=trainings, submissions=submissions, label_set=label_set.name
        ):
            if found.cases:
                rows = found.scores.rows(found.cases)
                tables += _by_evaluation_set(rows, references=found.label_set, trainings=trainings)
    return pa.concat_tables(tables) if tables else None


def _by_evaluation_set(rows: pa.Table, *, references: str, trainings: Sequence[Training]) -> Iterator[pa.Table]:
    import pyarrow.compute as pc

    wanted: dict[tuple[str, str], set[str]] = {}
    for found in evaluated(trainings):
        if found.label_set == references:
            for structure in found.structures:
                wanted.setdefault((found.name, structure), set()).update(case.id for case in found.cases)
    for (evaluation_set, structure), cases in wanted.items():
        of_set = pc.and_(pc.equal(rows["structure"], structure), pc.is_in(rows["case"], pa.array(sorted(cases))))
        part = rows.filter(of_set)
        part = part.append_column("evaluation_set", pa.array([evaluation_set] * part.num_rows, pa.string()))
        yield part.append_column("references", pa.array([references] * part.num_rows, pa.string()))


def check_label_set(name: str | None, *, trainings: Sequence[Training]) -> str:
    """Return what submissions of a run are labelled in; raises ConfigError where it must be said and is not."""
    evaluated = evaluated_label_sets(trainings)
    if name is None and len(evaluated) == 1:
        return evaluated[0]
    if name is None:
        raise ConfigError(
            f"the trainings are scored in several label sets; expected --label-set with that of the submitted label "
            f"maps, one of {', '.join(evaluated)}"
        )
    return name


def check_names(submissions: Sequence[Submission], *, trainings: Sequence[Training]) -> None:
    """Raise ConfigError for a submission that has the name of trainings: tables would mix the scores of both."""
    groups = {training.group for training in trainings}
    for one in submissions:
        if one.name in groups:
            raise ConfigError(
                f"{one.name}: the name of trainings of this study, and of a submission; expected another one for it. "
                f"Give it with METHOD={one.folder.location}"
            )
