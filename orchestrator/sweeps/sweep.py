"""A sweep: trials are chosen, trained and scored, a few at a time or all at once, until there are enough."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

from orchestrator.benchmark.definition import Training
from orchestrator.benchmark.study import Study
from orchestrator.configuration import expect_known
from orchestrator.driver.backend import Connect
from orchestrator.driver.request import RunRequest, definitions_of
from orchestrator.driver.results.shown import report_now
from orchestrator.driver.run import RunOutcome, run
from orchestrator.errors import ConfigError, IntegrityError
from orchestrator.progress import ProgressListener
from orchestrator.results.trials import Fidelity, read_search
from orchestrator.search.early_stopping import EarlyStopping
from orchestrator.search.samplers import SAMPLERS, KnownTrial, Trial
from orchestrator.search.space import Settings, Space
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json
from orchestrator.sweeps.inner_study import changes_for, inner_study
from orchestrator.sweeps.trial_results import TrialResult, best_of, promoted, results_of_trials
from orchestrator.sweeps.written import write_sweep

TRIALS_AT_ONCE = 4
"""That a sampler which learns is asked for before it hears of results."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepRequest:
    """What is searched, how, and for how long."""

    run: RunRequest
    """Of the one training whose settings are searched."""
    name: str
    """Of the sweep, below the output of the run."""
    space: Space
    sampler: str = "random"
    """Of SAMPLERS."""
    num_trials: int = 16
    num_at_once: int | None = None
    """Most trials that are chosen together; all, or TRIALS_AT_ONCE if the sampler learns or hours are limited."""
    stopping: EarlyStopping | None = None
    """How trials that others beat are ended early."""
    metric: str = "dsc"
    """`dsc` or `nsd`, of whole cases, by which trials are told apart."""
    num_folds: int = 1
    """Of the training cases, on which each trial is trained and scored, if the space has no fidelities."""
    reduction: int = 3
    """Where it has some, the best one in so many goes on to the next."""
    max_hours: float | None = None
    """No trials are begun with which, as far as is known, training would take longer in all."""
    warm_start: tuple[str, ...] = ()
    """Names of sweeps of the same output whose trials the sampler learns from."""

    @property
    def training(self) -> Training:
        """The training whose settings are searched."""
        return self.run.trainings[0]

    @property
    def output(self) -> str:
        """Location of everything that the sweep writes; it has the layout of a run."""
        return f"{self.run.output.rstrip('/')}/{run_paths.sweep(self.name)}"

    @property
    def fidelities(self) -> tuple[Fidelity, ...]:
        """At which trials are looked at, one after the other."""
        own = self.run.preset.name
        if not self.space.fidelities:
            return (Fidelity(preset=own, folds=self.num_folds),)
        return tuple(Fidelity(preset=one.preset or own, folds=one.folds) for one in self.space.fidelities)

    @property
    def sha256(self) -> str:
        """Digest of what the results of each of its trials follow from."""
        milestones = self.stopping.milestones if self.stopping else ()
        return sweep_sha256(self.run, fidelities=self.fidelities, milestones=milestones)

    def check(self) -> None:
        """Raise ConfigError for fidelities that do not follow from each other."""
        where = f"{self.space.path}: fidelities"
        for before, after in pairwise(self.fidelities):
            if before == after or (before.preset == after.preset and before.folds > after.folds):
                raise ConfigError(f"{where}: {before.text} before {after.text}; expected the cheaper one first")
        for one in self.fidelities:
            expect_known([one.preset], self.run.study.presets, where=where, what="preset")
        if self.fidelities[-1].preset != self.run.preset.name:
            raise ConfigError(
                f"{where}: the last one is of preset {self.fidelities[-1].preset}; expected {self.run.preset.name}, "
                "that of the sweep, by which the best trial is told"
            )

    def request_for(self, trials: Sequence[Trial]) -> RunRequest:
        """Return the run of these trials; raises ConfigError if a setting does not fit."""
        study = inner_study(
            self.run.study,
            self.training,
            trials=trials,
            fidelities=self.fidelities,
            preset=self.run.preset,
            sha256=self.sha256,
        )
        for model in study.models:
            self.run.preset.changed_by(model.changes, where=f"{self.space.path}: {model.name}")
        return replace(run_of_trials(self.run, study, output=self.output), early_stopping=self.stopping)


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepOutcome:
    """What has become of a sweep."""

    results: tuple[TrialResult, ...]
    """Of every trial, in the order of their numbers."""
    best: TrialResult | None
    """None if no trial has trained to its end."""
    failures: tuple[str, ...]
    """A line for each trial that failed."""
    stopped_for_hours: bool
    """Whether fewer trials were begun than asked for, since the hours would not have lasted."""
    tables: tuple[str, ...]
    """Keys of the tables of trials, below the location of the sweep."""


def sweep_sha256(run: RunRequest, *, fidelities: Sequence[Fidelity], milestones: Sequence[int]) -> str:
    """Return the digest of what the results of each trial of a sweep follow from; `run` is that of its training."""
    (training,) = run.trainings
    # Not the study as a whole: it may get the best trial as a model, and the sweep still goes on.
    looks = [[one.preset, one.folds, changes_for(run.study, one, preset=run.preset)] for one in fidelities]
    said = [definitions_of(run)[training.id], training.id, looks, list(milestones)]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def run_of_trials(run: RunRequest, study: Study, *, output: str) -> RunRequest:
    """Return the run of the study of a sweep, where `run` is that of the training on whose cases it searches."""
    # The cases of the training are those that the preset has left.
    preset = replace(run.preset, case_limits={})
    return replace(run, study=study, trainings=study.trainings(preset=preset), preset=preset, output=output)


def first_trials(request: SweepRequest) -> list[Trial]:
    """Return trials as they would be chosen if nothing were known, for a forecast; the first of them go on."""
    drawn = SAMPLERS[request.sampler](request.space, (), num_trials=request.num_trials, seed=request.run.seed)
    most = len(request.fidelities) - 1
    return [
        replace(trial, fidelity=sum(trial.number < -(-len(drawn) // request.reduction**k) for k in range(1, most + 1)))
        for trial in _numbered(drawn)
    ]


def sweep(request: SweepRequest, *, connect: Connect, listener: ProgressListener) -> SweepOutcome:
    """Carry out what is not done yet of a sweep.

    Which trials there are is written down before they begin, so that the same call goes on wherever it was interrupted.

    Raises
    ------
    ConfigError
        If a setting does not fit, or the location holds another sweep.
    DataError, ClusterError
        As `run`.
    """
    storage = open_storage(request.output)
    outcome: RunOutcome | None = None
    stopped_for_hours = False
    tables: tuple[str, ...] = ()
    while True:
        trials = trials_of(storage)
        results = results_of_trials(
            storage, trials, fidelities=request.fidelities, preset=request.run.preset.name, metric=request.metric
        )
        best = best_of(results)
        if trials:
            tables = write_sweep(storage, results, best=best, about=_about(request))
        # What was begun before goes first, also what failed; then the best go on, and there are more.
        if outcome is not None or not trials:
            budget = Budget(request, results)
            some_go_on = _promote(request, storage, results, budget=budget)
            num_more = _num_more(request, results, budget=budget)
            stopped_for_hours = budget.is_short
            has_more = num_more > 0 and _choose(request, storage, results, num_trials=num_more)
            if not (some_go_on or has_more):
                break
            trials = trials_of(storage)
        outcome = run(request.request_for(trials), connect=connect, listener=listener)
    # What the last call has written of itself does not know yet what has become of its trials.
    if outcome is not None:
        report_now(request.request_for(trials), storage)
    failures = outcome.failures if outcome else {}
    return SweepOutcome(
        results=tuple(results),
        best=best,
        failures=tuple(f"{stage}: {text.splitlines()[0]}" for stage, text in failures.items()),
        stopped_for_hours=stopped_for_hours,
        tables=tables,
    )


class Budget:
    """The hours of training that are left, and what they are enough for."""

    def __init__(self, request: SweepRequest, results: Sequence[TrialResult]) -> None:
        self._expected_hours = expected_hours(request)
        begun = [hours for one in results for hours in self._expected_hours[: len(one.scores)] if one.hours > 0]
        spent = sum(one.hours for one in results)
        self._factor = spent / sum(begun) if begun else 1.0
        """Of what a trial takes, by what the trials so far took."""
        self._left = math.inf if request.max_hours is None else request.max_hours - spent
        self.is_short = False
        """Whether it was not enough for something."""

    def take(self, number: int, *, fidelity: int) -> int:
        """Return how many of so many trials can be looked at at a fidelity, and take the hours for these."""
        of_each = self._expected_hours[fidelity] * self._factor
        enough = number if self._left == math.inf else max(0, min(number, int(self._left / of_each)))
        self.is_short |= enough < number and not enough
        self._left -= enough * of_each
        return enough


def expected_hours(request: SweepRequest) -> tuple[float, ...]:
    """Return the hours of training that each fidelity adds to those before it, by what presets say."""
    found, folds = [], Counter[str]()
    for one in request.fidelities:
        changes = changes_for(request.run.study, one, preset=request.run.preset)
        of_each = request.run.preset.changed_by(tuple(changes.items())).expected_training_s / 3600
        found.append(of_each * (one.folds - folds[one.preset]))
        folds[one.preset] = one.folds
    return tuple(found)


def _num_more(request: SweepRequest, results: Sequence[TrialResult], *, budget: Budget) -> int:
    """Return how many trials to begin next."""
    learns = SAMPLERS[request.sampler].learns
    is_bounded = learns or request.max_hours is not None
    at_once = request.num_at_once or (TRIALS_AT_ONCE if is_bounded else request.num_trials)
    return budget.take(max(0, min(at_once, request.num_trials - len(results))), fidelity=0)


def _promote(request: SweepRequest, storage: Storage, results: Sequence[TrialResult], *, budget: Budget) -> bool:
    """Write down which trials go on to the next fidelity; False if none does."""
    found = []
    for fidelity in range(len(request.fidelities) - 1):
        best = promoted(results, fidelity=fidelity, reduction=request.reduction)
        found += best[: budget.take(len(best), fidelity=fidelity + 1)]
    if not found:
        return False
    number = sum(1 for _ in run_paths.own_keys(storage, run_paths.PROMOTIONS))
    record = {"trials": [one.trial.number for one in found]}
    storage.create_exclusive(run_paths.promotions(number), json.dumps(record, indent=1).encode())
    return True


def _choose(request: SweepRequest, storage: Storage, results: Sequence[TrialResult], *, num_trials: int) -> bool:
    """Write down the next trials; False if there are no more. Where another process has done so, its trials count."""
    # That of the first fidelity, which all have.
    known = [KnownTrial(settings=one.trial.settings, score=one.scores[0]) for one in results]
    chosen = SAMPLERS[request.sampler](
        request.space, [*_earlier(request), *known], num_trials=num_trials, seed=request.run.seed
    )
    if not chosen:
        return False
    record = {"first": len(results), "trials": [dict(settings) for settings in chosen]}
    storage.create_exclusive(run_paths.trials(len(results)), json.dumps(record, indent=1).encode())
    return True


def _earlier(request: SweepRequest) -> list[KnownTrial]:
    """Return the trials of other sweeps that are to be learnt from."""
    found: list[KnownTrial] = []
    for name in request.warm_start:
        storage = open_storage(f"{request.run.output.rstrip('/')}/{run_paths.sweep(name)}")
        search = read_search(storage)
        if search is None:
            raise ConfigError(f"--warm-start {name}: no sweep in {storage.location}; expected the name of one")
        results = results_of_trials(
            storage,
            trials_of(storage),
            fidelities=search.fidelities,
            preset=search.fidelities[-1].preset,
            metric=request.metric,
        )
        found += [KnownTrial(settings=one.trial.settings, score=one.scores[0], is_earlier=True) for one in results]
    return found


def trials_of(storage: Storage) -> list[Trial]:
    """Return every trial that was begun; raises IntegrityError if a record of them is not what was written."""
    settings: list[Settings] = []
    for key in run_paths.own_keys(storage, run_paths.TRIALS):
        record = read_json(storage, key, {"first": int, "trials": list})
        if record["first"] != len(settings) or not all(isinstance(one, dict) for one in record["trials"]):
            raise IntegrityError(f"{storage.location}/{key}: not the trials that were begun; expected what was written")
        settings += [_as_settings(one) for one in record["trials"]]
    numbers = Counter(_promoted_trials(storage))
    return [replace(trial, fidelity=numbers[trial.number]) for trial in _numbered(settings)]


def _promoted_trials(storage: Storage) -> Iterator[object]:
    """Yield the number of a trial for each time that it has gone on to the next fidelity."""
    for key in run_paths.own_keys(storage, run_paths.PROMOTIONS):
        yield from read_json(storage, key, {"trials": list})["trials"]


def _as_settings(record: dict[str, object]) -> Settings:
    return tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in record.items())


def _numbered(settings: Sequence[Settings]) -> list[Trial]:
    return [Trial(number=number, settings=one) for number, one in enumerate(settings)]


def _about(request: SweepRequest) -> dict[str, object]:
    """Return what a sweep is about, for its record."""
    return {
        "training": request.training.id,
        "metric": request.metric,
        "sampler": request.sampler,
        "preset": request.run.preset.name,
        "seed": request.run.seed,
        "fidelities": [asdict(one) for one in request.fidelities],
        "milestones": list(request.stopping.milestones) if request.stopping else [],
    }
