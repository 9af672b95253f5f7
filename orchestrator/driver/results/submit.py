"""Submissions scored: beside the trainings of a run, or against references alone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.benchmark.folds import read_patients
from orchestrator.driver.claim import trainings_asked_for
from orchestrator.driver.request import RunRequest, trainings_of
from orchestrator.driver.results.shown import report_now
from orchestrator.errors import ConfigError
from orchestrator.report.submissions.write import ScoredSubmissions, write_submissions_report
from orchestrator.scoring.folders import FolderComparison, without_ending
from orchestrator.scoring.kept_scores import KeptScores, Unusable
from orchestrator.scoring.leaderboard import Leaderboard
from orchestrator.scoring.submissions import Submission, what_lacks
from orchestrator.scoring.submitted import check_label_set, check_names, record_submissions, references_of
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage

ScoreAll = Callable[[KeptScores, Sequence[str]], Iterator[Sequence[Unusable]]]
"""Scores cases, in whatever order and wherever, and yields what has no scores."""
OnCase = Callable[[int, int], None]
"""Called with how many cases are scored, and of how many."""
_ALONE = "labels"
"""In place of a label set where there is no study."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Submitted:
    """What became of submissions."""

    page: str
    """Where the report is."""
    unusable: tuple[Unusable, ...]
    """Label maps without scores, and why."""
    notes: Mapping[str, tuple[str, ...]]
    """Submission to what its folder lacks or has too many."""
    board: Leaderboard | None
    """Who is where; beside a run the report has it."""


def submit_alone(
    submissions: Sequence[Submission],
    comparison: FolderComparison,
    *,
    output: Storage,
    score_all: ScoreAll,
    on_case: OnCase,
    patients: Path | None,
) -> Submitted:
    """Score submissions against references, and write the report; what is scored already is taken from the output.

    `patients` is a file that says of whom each case is.
    """
    cases = comparison.cases()
    patient_of_case = _patients(patients, cases) if patients else {}
    record_submissions(output, submissions, label_set=_ALONE)
    scores = KeptScores(
        comparison=comparison,
        methods=tuple(one.name for one in submissions),
        parts=output,
        folder=run_paths.submitted_scores(_ALONE, references="reference"),
    )
    notes = _notes(submissions, all_scores=[(scores, cases)])
    unusable = _scored(scores, cases, score_all=score_all, on_case=on_case)
    found = ScoredSubmissions(
        title=f"Submissions to {Path(comparison.reference.location).name}",
        rows=scores.rows(cases),
        metrics=comparison.metrics,
        unusable=unusable,
        notes=notes,
        reference=comparison.reference.location,
        patients=patient_of_case,
    )
    board = write_submissions_report(output, found)
    page = f"{output.location}/{run_paths.REPORT_PAGE}"
    return Submitted(page=page, unusable=tuple(unusable), notes=notes, board=board)


def submit_to_run(
    submissions: Sequence[Submission],
    request: RunRequest,
    *,
    output: Storage,
    label_set: str | None,
    score_all: ScoreAll,
    on_case: OnCase,
) -> Submitted:
    """Score submissions on all that the trainings of a run are tested on, and write its report."""
    trainings = trainings_of(request, ids=set(trainings_asked_for(output)))
    chosen = check_label_set(label_set, trainings=trainings)
    check_names(submissions, trainings=trainings_of(request))
    all_references = list(
        references_of(output, study=request.study, trainings=trainings, submissions=submissions, label_set=chosen)
    )
    if not any(found.cases for found in all_references):
        raise ConfigError(
            f"{output.location}: no label map of a case that is tested on in structures of {chosen}; expected a run "
            "that has read its data"
        )
    record_submissions(output, submissions, label_set=chosen)
    notes = _notes(submissions, all_scores=[(found.scores, found.cases) for found in all_references])
    unusable = {
        (one.method, one.case): one
        for found in all_references
        for one in _scored(found.scores, found.cases, score_all=score_all, on_case=on_case)
    }
    page = f"{output.location}/{report_now(request, output)}"
    return Submitted(page=page, unusable=tuple(unusable.values()), notes=notes, board=None)


def _patients(path: Path, cases: Sequence[str]) -> dict[str, str]:
    """Return the patient of each case, which is named with or without its ending; raises ConfigError if one lacks."""
    patients = read_patients(path, ())
    found = {case: patients.get(case) or patients.get(without_ending(case), "") for case in cases}
    if lacking := [case for case, patient in found.items() if not patient]:
        raise ConfigError(f"{path}: no patient for case {lacking[0]}; expected one for every reference")
    return found


def _scored(scores: KeptScores, cases: Sequence[str], *, score_all: ScoreAll, on_case: OnCase) -> list[Unusable]:
    unusable: list[Unusable] = []
    for number, found in enumerate(score_all(scores, cases), start=1):
        unusable += found
        on_case(number, len(cases))
    return sorted(unusable, key=lambda one: (one.method, one.case))


def _notes(
    submissions: Sequence[Submission], *, all_scores: Sequence[tuple[KeptScores, Sequence[str]]]
) -> dict[str, tuple[str, ...]]:
    """Return what is to be said of each folder, where there is anything."""
    keys_of_cases = {case: scores.comparison.prediction_keys(case) for scores, cases in all_scores for case in cases}
    found = {one.name: tuple(what_lacks(one, keys_of_cases=keys_of_cases)) for one in submissions}
    return {name: lines for name, lines in found.items() if lines}
