"""Label maps scored: those of two folders, and those of other methods."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, TypeVar, Unpack

from orchestrator.api.runs import output_location, request_of_run
from orchestrator.cluster.registry import load_cluster
from orchestrator.configuration import check_options
from orchestrator.storage.filesystem import open_storage

if TYPE_CHECKING:
    from orchestrator.driver.results.submit import Submitted
    from orchestrator.scoring.folder_scores import FolderScores
    from orchestrator.scoring.folders import FolderComparison, FolderScore
    from orchestrator.scoring.parallel import Scorer
    from orchestrator.scoring.structures import Tolerances
    from orchestrator.scoring.submissions import Submission

T = TypeVar("T")


class EvaluateOptions(TypedDict, total=False):
    """What `evaluate` may be given besides, by name."""

    dimension: Literal[2, 3]
    """3 for surfaces, unless given; 2 for the contours of files of one slice or two axes."""
    ignored_label: int | None
    """Value in the references of voxels that nobody has annotated: they count nowhere."""
    workers: int | None
    """Processes; up to one a core unless given."""
    cluster: Path | str | None
    """Cluster file: score as Ray tasks there; the folders, and an output, must be seen on its machines."""
    on_case: Callable[[int, int], None]
    """Called after each case with how many are scored, and of how many."""


def evaluate(
    reference: str | Path,
    prediction: str | Path | Sequence[str | Path],
    *,
    tolerances_mm: "Tolerances",
    metrics: Collection[str] = ("dsc", "nsd"),
    **options: Unpack[EvaluateOptions],
) -> "FolderScores":
    """Score label maps of equal names in two folders, as the command `evaluate` does.

    Parameters
    ----------
    reference
        Folder or prefix of a bucket with the true label maps.
    prediction
        One to be scored, or several.
    tolerances_mm
        Tolerance of the NSD of each label to be scored, or of each union of labels; None without that metric.
    metrics
        Of `kernels.METRICS`.
    **options
        Of EvaluateOptions: in which dimension, and where it is calculated.

    Returns
    -------
    FolderScores
        `to_pandas()` and `to_arrow()` have a row a folder, case and label. What cannot be scored is a row that says
        why, with the status `missing`.

    Raises
    ------
    ConfigError
        For what does not fit, and folders without label maps.
    """
    from orchestrator.scoring.folder_scores import FolderScores, compare_folders

    check_options(options, EvaluateOptions)
    comparison = compare_folders(
        reference,
        [prediction] if isinstance(prediction, str | Path) else prediction,
        tolerances_mm=tolerances_mm,
        metrics=metrics,
        dimension=options.get("dimension", 3),
        ignored_label=options.get("ignored_label"),
    )
    return FolderScores.of(comparison, _rows_in_order(comparison, options))


def _rows_in_order(comparison: "FolderComparison", options: EvaluateOptions) -> "list[FolderScore]":
    """Return the rows of all cases, in the order of the cases."""
    cases = comparison.cases()
    on_case = options.get("on_case")
    rows: dict[str, list[FolderScore]] = {}
    for own_rows in _scored(comparison, cases, workers=options.get("workers"), cluster=options.get("cluster")):
        rows[own_rows[0].case] = list(own_rows)
        if on_case is not None:
            on_case(len(rows), len(cases))
    return [row for case in cases for row in rows[case]]


class SubmitOptions(EvaluateOptions, total=False):
    """What `submit` may be given besides, by name; `dimension` and `ignored_label` go with `reference`."""

    reference: str | Path | None
    """Folder or prefix of a bucket with the true label maps; unless given, `output` is a run, and has them."""
    tolerances_mm: "Tolerances"
    """With `reference`: tolerance of the NSD of each label to be scored, or of each union, as for `evaluate`."""
    metrics: Collection[str]
    """With `reference`: of `kernels.METRICS`; DSC, NSD, HD95 and ASSD unless given."""
    patients: Path | str | None
    """With `reference`: CSV file with the columns `case` and `patient`; each case is one of its own unless given."""
    study: str | Path | None
    """Beside a run: file of the study that it trains; unless given, that with which it was started."""
    label_set: str | None
    """Beside a run: what the values of the label maps mean; the only one that is scored unless given."""


def submit(submissions: Sequence[str], *, output: str | Path, **options: Unpack[SubmitOptions]) -> "Submitted":
    """Score and rank label maps of other methods, beside the trainings of a run or by themselves.

    Parameters
    ----------
    submissions
        `METHOD=FOLDER` each, or a folder in which every folder is a method. They take the place of those of the call
        before; what was scored of the same files then is not scored again.
    output
        Folder or prefix of a bucket of the run; with `reference`, of what is written.
    **options
        Of SubmitOptions.

    Raises
    ------
    ConfigError
        For what does not fit, and folders that are not there. What is wrong with a submission is in what is returned.
    """
    from orchestrator.driver.results.submit import submit_alone, submit_to_run
    from orchestrator.scoring.submissions import submissions_of

    check_options(options, SubmitOptions)
    found = submissions_of([submissions] if isinstance(submissions, str) else submissions)
    reference, storage = options.get("reference"), open_storage(output_location(str(output)))
    score_all = partial(_scored, workers=options.get("workers"), cluster=options.get("cluster"))
    on_case = options.get("on_case", lambda *_: None)
    if reference is None:
        request = request_of_run(storage, study=options.get("study"))
        return submit_to_run(
            found, request, output=storage, label_set=options.get("label_set"), score_all=score_all, on_case=on_case
        )
    patients = options.get("patients")
    return submit_alone(
        found,
        _compared_with(reference, found, options),
        output=storage,
        score_all=score_all,
        on_case=on_case,
        patients=Path(patients) if patients else None,
    )


def _compared_with(
    reference: str | Path, submissions: "Sequence[Submission]", options: SubmitOptions
) -> "FolderComparison":
    from orchestrator.benchmark.definition import STUDY_METRICS
    from orchestrator.scoring.folder_scores import compare_folders

    comparison = compare_folders(
        reference,
        [one.folder.location for one in submissions],
        tolerances_mm=options.get("tolerances_mm", {}),
        metrics=options.get("metrics", STUDY_METRICS),
        dimension=options.get("dimension", 3),
        ignored_label=options.get("ignored_label"),
    )
    return replace(comparison, predictions=tuple(one.folder for one in submissions), any_ending=True)


def _scored(
    scorer: "Scorer[T]", cases: Sequence[str], *, workers: int | None, cluster: Path | str | None
) -> "Iterator[Sequence[T]]":
    """Return what is found of each case as it comes."""
    from orchestrator.scoring.parallel import score_in_processes

    if cluster is None:
        return score_in_processes(scorer, cases, num_workers=workers)
    return _score_on_cluster(scorer, cases, cluster_file=Path(cluster))


def _score_on_cluster(scorer: "Scorer[T]", cases: Sequence[str], *, cluster_file: Path) -> "Iterator[Sequence[T]]":
    config = load_cluster(cluster_file)
    config.authenticate()
    from orchestrator.ray_backend.connect import connected
    from orchestrator.ray_backend.executor import map_unordered
    from orchestrator.scoring.parallel import DIED

    def lost(case: str) -> "Sequence[T]":
        """Score each folder by itself: one of them may hold what the processes died of."""
        each = list(scorer.of_each())
        if len(each) == 1:
            return scorer.unscored(case, message=DIED)
        rows: list[T] = []
        for one in each:
            for found in map_unordered(one.score, [case], name="score", lost=partial(one.unscored, message=DIED)):
                rows += found
        return rows

    with connected(config, run=None):
        yield from map_unordered(scorer.score, cases, name="score", lost=lost)
