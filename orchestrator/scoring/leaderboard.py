"""Folders of label maps ranked: for each structure and metric by three rules, and over all of these."""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.results.records import ScoreStatus
from orchestrator.scoring.folder_scores import FolderScores
from orchestrator.scoring.folders import FolderScore, metric_value
from orchestrator.statistics.ranking import Ranking, rank_methods

OVERLAPS = ("dsc", "nsd")
"""Metrics of which more is better."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a folder stands in one structure and metric."""

    prediction: str
    structure: str
    metric: str
    mean: float
    """Over the cases with a finite number; NaN without any."""
    rank_of_mean: int
    """1 is the best; for the ranks a case without a usable prediction, or without a distance, is worse than any other
    one, and two empty masks are the best."""
    rank_of_ranks: int
    """By the mean of the ranks of each case."""
    rank_by_tests: int | None
    """By how many others it beats significantly (Wilcoxon, Holm); None for more than are tested with each other."""
    share_first: float
    """Share of resamples of the cases in which its mean is first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """Where a folder stands over all structures and metrics: the means of its ranks."""

    prediction: str
    rank_of_mean: float
    rank_of_ranks: float
    num_first: int
    """Structures and metrics in which its mean is first."""
    num_missing: int
    """Cases without a usable prediction."""


def places(scores: FolderScores) -> tuple[Place, ...]:
    """Return the places of all folders, structure by structure and metric by metric."""
    folders = list(dict.fromkeys(row.prediction for row in scores.rows))
    structures = list(dict.fromkeys(row.score.structure for row in scores.rows))
    rows = {(row.prediction, row.score.structure, row.case): row for row in scores.rows}
    cases = list(dict.fromkeys(row.case for row in scores.rows))
    found = []
    for structure in structures:
        for metric in scores.metrics:
            of_cases = [[rows[folder, structure, case] for folder in folders] for case in cases]
            values = np.array([[_ranked_value(row, metric=metric) for row in row_of] for row_of in of_cases])
            ranking = rank_methods(values, larger_is_better=metric in OVERLAPS)
            finite = [[metric_value(row.score, metric) for row in column] for column in zip(*of_cases, strict=True)]
            found += [
                _place(folder, structure, metric, ranking=ranking, index=index, values=finite[index])
                for index, folder in enumerate(folders)
            ]
    return tuple(found)


def standings(scores: FolderScores, found: Sequence[Place]) -> tuple[Standing, ...]:
    """Return the folders over all, the best by the mean of its ranks first."""
    by_folder: dict[str, list[Place]] = {}
    for place in found:
        by_folder.setdefault(place.prediction, []).append(place)
    missing = {(row.prediction, row.case) for row in scores.rows if row.score.status is ScoreStatus.MISSING}
    standing = [
        Standing(
            prediction=folder,
            rank_of_mean=statistics.fmean(place.rank_of_mean for place in own),
            rank_of_ranks=statistics.fmean(place.rank_of_ranks for place in own),
            num_first=sum(place.rank_of_mean == 1 for place in own),
            num_missing=sum(prediction == folder for prediction, _ in missing),
        )
        for folder, own in by_folder.items()
    ]
    return tuple(sorted(standing, key=lambda one: (one.rank_of_mean, one.rank_of_ranks, one.prediction)))


def to_csv(found: Sequence[Place]) -> str:
    """Return places as CSV, one a line."""
    buffer = io.StringIO()
    names = list(Place.__dataclass_fields__)
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([getattr(place, name) for name in names] for place in found)
    return buffer.getvalue().encode(errors="replace").decode()


def _ranked_value(row: FolderScore, *, metric: str) -> float:
    """Return a number to rank: NaN where there is no usable one, the best there is where both masks are empty."""
    if row.score.status is ScoreStatus.BOTH_EMPTY:
        return 1.0 if metric in OVERLAPS else 0.0
    value = metric_value(row.score, metric)
    return value if math.isfinite(value) else math.nan


def _place(folder: str, structure: str, metric: str, *, ranking: Ranking, index: int, values: Sequence[float]) -> Place:
    finite = [value for value in values if math.isfinite(value)]
    return Place(
        prediction=folder,
        structure=structure,
        metric=metric,
        mean=statistics.fmean(finite) if finite else math.nan,
        rank_of_mean=ranking.mean_then_rank[index],
        rank_of_ranks=ranking.rank_then_mean[index],
        rank_by_tests=ranking.test_based[index] if ranking.test_based else None,
        share_first=ranking.share_first[index],
    )
