"""Scores of folders of predictions against a folder of references: pairing, rows and summary."""

import math
import statistics
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from kernels import FIELDS
from orchestrator.errors import ConfigError, DataError, StorageError
from orchestrator.images.label_maps import SUFFIXES
from orchestrator.results.records import CaseScore, ScoreStatus
from orchestrator.scoring.score import NoPrediction, score_files
from orchestrator.scoring.structures import ScoredStructure
from orchestrator.storage.interface import Storage

NO_FILE = NoPrediction(reason="there is no prediction for this case")


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderComparison:
    """What is to be scored and how."""

    reference: Storage
    """Label maps that are true."""
    predictions: tuple[Storage, ...]
    """Label maps of one or several methods, named like the references."""
    structures: tuple[ScoredStructure, ...]
    """What to score."""
    metrics: tuple[str, ...]
    """What to calculate, of kernels.METRICS."""
    dimension: int = 3
    """2 for the contours of slices, 3 for surfaces."""
    ignored_label: int | None = None
    """Value in a reference of voxels that nobody has annotated, which count nowhere."""

    def cases(self) -> list[str]:
        """Return the names of the reference files; raises ConfigError if there are none."""
        keys = self.reference.list_keys()
        cases = [key for key in keys if _is_label_map(key)]
        if not cases:
            found = f"{len(keys)} files, for example {keys[0]}" if keys else "no files"
            raise ConfigError(f"{self.reference.location}: {found}; expected label maps ({', '.join(SUFFIXES)})")
        return cases

    def without_reference(self, cases: Collection[str]) -> list[str]:
        """Return the locations of predictions that no reference has the name of."""
        return [
            f"{folder.location}/{key}"
            for folder in self.predictions
            for key in folder.list_keys()
            if _is_label_map(key) and key not in cases
        ]

    def score(self, case: str) -> list["FolderScore"]:
        """Return one row for each prediction folder and structure; what cannot be scored is a row that says why."""
        try:
            paths = [folder.fetch(case) if folder.exists(case) else NO_FILE for folder in self.predictions]
            scored = score_files(
                self.reference.fetch(case),
                paths,
                structures=self.structures,
                metrics=self.metrics,
                dimension=self.dimension,
                ignored_label=self.ignored_label,
            )
        except (DataError, StorageError, OSError, MemoryError) as error:
            # What a disk, a network or the memory says of one file is no reason to lose the scores of the others.
            return self.unscored(case, message=str(error))
        return [
            FolderScore(prediction=folder.location, case=case, score=score)
            for folder, scores in zip(self.predictions, scored, strict=True)
            for score in scores
        ]

    def unscored(self, case: str, *, message: str) -> list["FolderScore"]:
        """Return the rows of a case that cannot be scored, and why."""
        return [
            FolderScore(prediction=folder.location, case=case, score=_unscored(structure, message=message))
            for folder in self.predictions
            for structure in self.structures
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderScore:
    """One row: a structure of a case in one folder of predictions."""

    prediction: str
    """Location of the folder."""
    case: str
    """Name of the file."""
    score: CaseScore


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricSummary:
    """One metric over those cases where it is a finite number."""

    num: int
    mean: float
    """NaN of no cases."""
    sd: float
    """Of the sample (n - 1); NaN of fewer than two cases."""
    median: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderSummary:
    """All cases of one folder and structure."""

    prediction: str
    structure: str
    num_by_status: dict[ScoreStatus, int]
    metrics: dict[str, MetricSummary]


def summarise(rows: Sequence[FolderScore], *, metrics: Sequence[str]) -> list[FolderSummary]:
    """Return a summary for each folder and structure, in the order of the rows."""
    groups: dict[tuple[str, str], list[CaseScore]] = {}
    for row in rows:
        groups.setdefault((row.prediction, row.score.structure), []).append(row.score)
    return [
        FolderSummary(
            prediction=prediction,
            structure=structure,
            num_by_status={status: sum(score.status is status for score in scores) for status in ScoreStatus},
            metrics={name: _summary(metric_value(score, name) for score in scores) for name in metrics},
        )
        for (prediction, structure), scores in groups.items()
    ]


def metric_value(score: CaseScore, metric: str) -> float:
    """Return the metric of this name, of kernels.METRICS."""
    return float(getattr(score, FIELDS[metric]))


def _is_label_map(key: str) -> bool:
    """Whether the name of a file is that of a label map, and not hidden as what macOS and tools leave beside them."""
    is_hidden = any(part.startswith(".") for part in key.split("/"))
    return key.lower().endswith(SUFFIXES) and not is_hidden


def _summary(values: Iterable[float]) -> MetricSummary:
    finite = [value for value in values if math.isfinite(value)]
    return MetricSummary(
        num=len(finite),
        mean=statistics.fmean(finite) if finite else math.nan,
        sd=statistics.stdev(finite) if len(finite) > 1 else math.nan,
        median=statistics.median(finite) if finite else math.nan,
    )


def _unscored(structure: ScoredStructure, *, message: str) -> CaseScore:
    return CaseScore(
        structure=structure.name,
        status=ScoreStatus.MISSING,
        dsc=math.nan,
        nsd=math.nan,
        tolerance_mm=structure.tolerance_mm,
        spacing_mm=(math.nan, math.nan, math.nan),
        num_reference_voxels=0,
        num_predicted_voxels=0,
        message=message,
    )
