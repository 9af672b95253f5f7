"""Scores of folders of predictions against a folder of references: pairing, rows and summary."""

import math
import statistics
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from kernels import FIELDS, FURTHER
from orchestrator.errors import ConfigError, DataError, StorageError
from orchestrator.images.label_maps import SUFFIXES
from orchestrator.results.records import CaseScore, ScoreStatus
from orchestrator.scoring.score import NoPrediction, missing_score, score_files
from orchestrator.scoring.structures import ScoredStructure
from orchestrator.storage.copies import keeping_copies
from orchestrator.storage.interface import Storage

_FORMS: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")
"""How letters with accents are written in names: one on most systems, two on macOS."""
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
    dimension: int | None = 3
    """2 for the contours of slices, 3 for surfaces, None for what a reference is."""
    ignored_label: int | None = None
    """Value in a reference of voxels that nobody has annotated, which count nowhere."""
    reference_key: str = "{}"
    """Key of a reference, with the name of its case at {}."""
    suffixes: tuple[str, ...] = ("",)
    """Endings that predictions of a case may have beside its name; none where that has one."""
    any_ending: bool = False
    """Whether a prediction may have another ending than its reference."""
    may_be_flat: bool = False
    """Whether a prediction may also bear only the last part of the name of its case."""

    def cases(self) -> list[str]:
        """Return the names of the reference files; raises ConfigError if there are none, or one that nobody can read.

        Cases that are left out would be missing from every mean, and nothing would say so.
        """
        if unreadable := list(filter(is_label_map, self.reference.list_unreadable())):
            raise ConfigError(
                f"{self.reference.location}: {len(unreadable)} label maps with a backslash or a control character in "
                f"their names, the first {unreadable[0]!r}; expected none. Rename them, and their predictions"
            )
        keys = self.reference.list_keys()
        cases = [key for key in keys if is_label_map(key)]
        if not cases:
            found = f"{len(keys)} files, for example {keys[0]}" if keys else "no files"
            raise ConfigError(f"{self.reference.location}: {found}; expected label maps ({', '.join(SUFFIXES)})")
        return cases

    def without_reference(self, cases: Collection[str]) -> list[str]:
        """Return the locations of predictions that no reference has the name of."""
        named = {name for case in cases for name in _spellings(case)}
        return [
            f"{folder.location}/{key}"
            for folder in self.predictions
            for key in folder.list_keys()
            if is_label_map(key) and key not in named
        ]

    @keeping_copies()
    def score(self, case: str) -> list["FolderScore"]:
        """Return one row for each prediction folder and structure; what cannot be scored is a row that says why."""
        try:
            scored = self._scored(
                self.reference.fetch(self.reference_key.format(case)),
                [self.prediction(folder, case) for folder in self.predictions],
            )
        except (DataError, StorageError, OSError, MemoryError) as error:
            # What a disk, a network or the memory says of one file is no reason to lose the scores of the others.
            return self.unscored(case, message=str(error))
        return [
            FolderScore(prediction=folder.location, case=case, score=score)
            for folder, scores in zip(self.predictions, scored, strict=True)
            for score in scores
        ]

    def _scored(self, reference: Path, predictions: Sequence[Path | NoPrediction]) -> tuple[tuple[CaseScore, ...], ...]:
        """Return the scores of each prediction; where a disk or the memory fails for one, its rows say so."""
        try:
            return score_files(
                reference,
                predictions,
                structures=self.structures,
                metrics=self.metrics,
                dimension=self.dimension,
                ignored_label=self.ignored_label,
            )
        except (OSError, MemoryError) as error:
            match predictions:
                case [NoPrediction()]:
                    raise  # of the reference
                case [_]:
                    return self._scored(reference, [NoPrediction(reason=str(error))])
                case _:
                    return tuple(scores for one in predictions for scores in self._scored(reference, [one]))

    def prediction_keys(self, case: str) -> list[str]:
        """Return the names that the prediction of a case may have."""
        names = dict.fromkeys(
            name for one in _spellings(case) for name in ([one, one.rpartition("/")[2]][: 1 + self.may_be_flat])
        )
        if self.any_ending:
            stems = map(without_ending, names)
            names |= dict.fromkeys(f"{stem}{ending}" for stem in stems for ending in SUFFIXES)
        return [f"{name}{suffix}" for name in names for suffix in self.suffixes]

    def prediction(self, folder: Storage, case: str) -> Path | NoPrediction:
        """Return the file of a case in a folder of predictions, or why there is none.

        Which of several is meant nobody can tell: one of them may be left from an earlier attempt.
        """
        found: dict[str, Path] = {}
        try:
            for key in self.prediction_keys(case):
                if not folder.exists(key):
                    continue
                path = folder.fetch(key)
                # Some systems find a file by several spellings of its name.
                if not any(map(path.samefile, found.values())):
                    found[key] = path
        except (DataError, StorageError, OSError) as error:
            return NoPrediction(reason=str(error))
        if len(found) > 1:
            return NoPrediction(reason=f"{len(found)} label maps of this case: {', '.join(found)}; expected one")
        return next(iter(found.values()), NO_FILE)

    def of_each(self) -> Iterator["FolderComparison"]:
        """Yield the comparison of each folder by itself."""
        for folder in self.predictions:
            yield replace(self, predictions=(folder,))

    def unscored(self, case: str, *, message: str) -> list["FolderScore"]:
        """Return the rows of a case that cannot be scored, and why."""
        return [
            FolderScore(prediction=folder.location, case=case, score=missing_score(structure, message=message))
            for folder in self.predictions
            for structure in self.structures
        ]


def without_ending(name: str) -> str:
    """Return the name of a label map less what its format adds."""
    return name[: -max(len(ending) for ending in SUFFIXES if name.lower().endswith(ending))]


def _spellings(name: str) -> list[str]:
    """Return a name as it is, then as other systems write it."""
    return [name, *(unicodedata.normalize(form, name) for form in _FORMS)]


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
    if metric in FURTHER:
        return score.further.get(FIELDS[metric], math.nan)
    return float(getattr(score, FIELDS[metric]))


def columns_of(score: CaseScore, metrics: Sequence[str]) -> dict[str, str | float]:
    """Return what a table has of a score beside the names of its case and structure, by column; NaN for no number."""
    return {
        "status": str(score.status),
        **{FIELDS[metric]: metric_value(score, metric) for metric in metrics},
        "tolerance_mm": score.tolerance_mm,
        **{f"spacing_{axis}_mm": step for axis, step in zip("zyx", score.spacing_mm, strict=True)},
        "num_reference_voxels": score.num_reference_voxels,
        "num_predicted_voxels": score.num_predicted_voxels,
        "message": score.message,
    }


def is_label_map(key: str) -> bool:
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
