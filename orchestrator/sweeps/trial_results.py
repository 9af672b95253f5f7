"""How good the trials of a sweep are, from what is committed."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow.compute as pc

from orchestrator.benchmark.definition import training_id
from orchestrator.events import read_events
from orchestrator.results.records import ScoreStatus
from orchestrator.results.store import ResultsStore
from orchestrator.results.trials import Fidelity
from orchestrator.search.early_stopping import is_beaten
from orchestrator.search.samplers import Trial
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json
from orchestrator.storage.json_values import JsonMapping
from orchestrator.sweeps.inner_study import group_of
from orchestrator.usage import stage_spans
from orchestrator.workflow.keys import StageKey, StageKind


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
    """Whether it has trained all epochs that it was to, at every fidelity."""
    hours: float
    """Of training, of all its folds and fidelities, with attempts that failed."""
    metric: str
    """By which trials are told apart."""
    scores: tuple[float | None, ...]
    """By that, at each fidelity that it has come to."""
    epochs_in_all: int
    """Of all folds and fidelities."""

    @property
    def score(self) -> float | None:
        """What it is told apart by."""
        return self.nsd if self.metric == "nsd" else self.dsc


def results_of_trials(
    storage: Storage, trials: Sequence[Trial], *, fidelities: Sequence[Fidelity], preset: str, metric: str
) -> list[TrialResult]:
    """Return what is committed of these trials; at a fidelity of which one lacks a fold, it has no score.

    Parameters
    ----------
    storage
        Location of the sweep.
    trials
        Each with the fidelity that it has come to.
    fidelities
        Of the sweep.
    preset
        Name of that of the sweep.
    metric
        `dsc` or `nsd`.
    """
    finished = ResultsStore(storage).finished()
    scores = _scores(storage) if finished else {}
    attempts = _hours_of_attempts(storage)
    found = []
    for trial in trials:
        names = [
            _trainings(group_of(trial, one, preset=preset), num_folds=one.folds)
            for one in fidelities[: trial.fidelity + 1]
        ]
        looks = [_look(storage, own, scores) for own in names]
        records = {name: record for look in looks for name, record in look.records.items()}
        number = max((number for number, look in enumerate(looks) if look.is_scored), default=len(looks) - 1)
        latest = looks[number]
        found.append(
            TrialResult(
                trial=replace(trial, fidelity=number),
                dsc=latest.dsc,
                nsd=latest.nsd,
                num_cases=latest.num_cases,
                num_epochs=min(latest.epochs, default=trial.ended_after or 0),
                is_whole=latest.is_scored
                and number == len(fidelities) - 1
                and not any(record.get("ended_early") for record in records.values()),
                hours=_hours(records, {name: attempts.get(name, 0.0) for own in names for name in own}),
                metric=metric,
                scores=tuple(look.nsd if metric == "nsd" else look.dsc for look in looks),
                epochs_in_all=sum(int(record["num_epochs"]) for record in records.values())
                or (trial.ended_after or 0) * fidelities[0].folds,
            )
        )
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class _Look:
    """What is committed of a trial at a fidelity."""

    records: Mapping[str, JsonMapping]
    """Of its trainings, by name; of those that are scored."""
    is_scored: bool
    dsc: float | None
    nsd: float | None
    num_cases: int

    @property
    def epochs(self) -> list[int]:
        """Of each training."""
        return [int(record["num_epochs"]) for record in self.records.values()]


def _trainings(group: str, *, num_folds: int) -> list[str]:
    return [training_id(group, seed=None, fold=fold) for fold in range(num_folds)]


def _look(storage: Storage, names: Sequence[str], scores: Mapping[str, list[tuple[float, float, str]]]) -> _Look:
    records = {
        name: read_json(storage, run_paths.training_record(name), {"num_epochs": int, "elapsed_s": (int, float)})
        for name in names
        if name in scores
    }
    values = [value for name in records for value in scores[name]]
    is_scored = len(records) == len(names)
    return _Look(
        records=records,
        is_scored=is_scored,
        dsc=_mean([dsc for dsc, _, _ in values]) if is_scored else None,
        nsd=_mean([nsd for _, nsd, _ in values]) if is_scored else None,
        num_cases=len({case for _, _, case in values}),
    )


def _hours(records: Mapping[str, JsonMapping], attempts: Mapping[str, float]) -> float:
    """Return the hours of trainings: of all attempts, where drivers have told of them, or those that records know."""
    known = {name: float(record["elapsed_s"]) / 3600 for name, record in records.items()}
    return sum(max(hours, known.get(name, 0.0)) for name, hours in attempts.items())


def _hours_of_attempts(storage: Storage) -> Mapping[str, float]:
    """Return the hours of all attempts at each training, also of those that failed or were interrupted."""
    found: defaultdict[str, float] = defaultdict(float)
    for span in stage_spans(read_events(storage)):
        key = StageKey.parse(span.stage)
        if key is not None and key.kind is StageKind.TRAIN:
            found[key.training] += span.hours
    return found


def best_of(results: Sequence[TrialResult]) -> TrialResult | None:
    """Return the best of the trials that have trained to their end, the first of equal ones; None if there is none."""
    whole = [one for one in results if one.is_whole and one.score is not None]
    return max(whole, key=lambda one: (one.score or 0.0, -one.trial.number), default=None)


def promoted(results: Sequence[TrialResult], *, fidelity: int, reduction: int) -> list[TrialResult]:
    """Return the trials that go on from a fidelity: by Ray Tune's rule of asynchronous halving, beside all others.

    The rule lets all go on that are equal; of these the first do, until the best 1 / reduction of all have.
    """
    scored = {one.trial.number: score for one in results if (score := _score_at(one, fidelity)) is not None}
    ranked = sorted(scored, key=lambda number: (-scored[number], number))
    best = set(ranked[: math.ceil(len(scored) / reduction)])
    found = []
    for one in results:
        if one.trial.number not in best or len(one.scores) > fidelity + 1:
            continue
        others = [value for number, value in scored.items() if number != one.trial.number]
        if not is_beaten(others, scored[one.trial.number], reduction=reduction):
            found.append(one)
    return found


def _score_at(result: TrialResult, fidelity: int) -> float | None:
    return result.scores[fidelity] if fidelity < len(result.scores) else None


def _scores(storage: Storage) -> Mapping[str, list[tuple[float, float, str]]]:
    """Return DSC, NSD and case of each row that counts, by training."""
    table = ResultsStore(storage).read()
    found: dict[str, list[tuple[float, float, str]]] = {name: [] for name in table["training_id"].unique().to_pylist()}
    table = table.filter(pc.not_equal(table["status"], ScoreStatus.BOTH_EMPTY))
    for row in table.select(["training_id", "dsc", "nsd", "dataset", "case"]).to_pylist():
        value = (row["dsc"] or 0.0, row["nsd"] or 0.0, f"{row['dataset']}/{row['case']}")
        found[row["training_id"]].append(value)
    return found


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
