"""How good the trials of a sweep are, from what is committed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow.compute as pc

from orchestrator.results.records import ScoreStatus
from orchestrator.results.store import ResultsStore
from orchestrator.search.samplers import Trial
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialResult:
    """What is known of a trial."""

    trial: Trial
    dsc: float | None
    """Mean over the structures of all cases that were left out, those that neither mask holds apart; a case without a
    prediction counts as 0. None if the trial is not scored yet, or failed."""
    nsd: float | None
    """The same."""
    num_cases: int
    """That it was scored on."""
    num_epochs: int
    """That it has trained, the fewest of its folds."""
    is_whole: bool
    """Whether it has trained all epochs that it was to."""
    hours: float
    """Of training, of all its folds."""
    metric: str
    """By which trials are told apart."""

    @property
    def score(self) -> float | None:
        """What it is told apart by."""
        return self.nsd if self.metric == "nsd" else self.dsc


def results_of_trials(
    storage: Storage, trials: Sequence[Trial], *, num_folds: int | None, metric: str
) -> list[TrialResult]:
    """Return what is committed of these trials; of one that lacks a fold, of `num_folds`, nothing counts."""
    finished = ResultsStore(storage).finished()
    scores = _scores(storage) if finished else {}
    found = []
    for trial in trials:
        own = sorted(one for one in finished if one.rpartition("-fold")[0] == trial.name)
        is_scored = bool(own) and num_folds in {None, len(own)}
        records = [
            read_json(storage, run_paths.training_record(one), {"num_epochs": int, "elapsed_s": (int, float)})
            for one in own
        ]
        values = [value for one in own for value in scores.get(one, ())]
        found.append(
            TrialResult(
                trial=trial,
                dsc=_mean([dsc for dsc, _, _ in values]) if is_scored else None,
                nsd=_mean([nsd for _, nsd, _ in values]) if is_scored else None,
                num_cases=len({case for _, _, case in values}),
                num_epochs=min((int(record["num_epochs"]) for record in records), default=0),
                is_whole=is_scored and not any(record.get("ended_early") for record in records),
                hours=sum(float(record["elapsed_s"]) for record in records) / 3600,
                metric=metric,
            )
        )
    return found


def best_of(results: Sequence[TrialResult]) -> TrialResult | None:
    """Return the best of the trials that have trained to their end, the first of equal ones; None if there is none."""
    whole = [one for one in results if one.is_whole and one.score is not None]
    return max(whole, key=lambda one: (one.score or 0.0, -one.trial.number), default=None)


def _scores(storage: Storage) -> Mapping[str, list[tuple[float, float, str]]]:
    """Return DSC, NSD and case of each row that counts, by training."""
    table = ResultsStore(storage).read()
    table = table.filter(pc.not_equal(table["status"], ScoreStatus.BOTH_EMPTY))
    found: dict[str, list[tuple[float, float, str]]] = {}
    for row in table.select(["training_id", "dsc", "nsd", "dataset", "case"]).to_pylist():
        value = (row["dsc"] or 0.0, row["nsd"] or 0.0, f"{row['dataset']}/{row['case']}")
        found.setdefault(row["training_id"], []).append(value)
    return found


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
