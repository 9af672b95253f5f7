"""A sweep: trials are chosen, trained and scored, a few at a time or all at once, until there are enough."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.benchmark.definition import Training
from orchestrator.benchmark.study import Study
from orchestrator.driver.backend import Connect
from orchestrator.driver.request import RunRequest, definitions_of
from orchestrator.driver.results.shown import report_now
from orchestrator.driver.run import RunOutcome, run
from orchestrator.errors import ConfigError, IntegrityError
from orchestrator.progress import ProgressListener
from orchestrator.search.early_stopping import EarlyStopping
from orchestrator.search.samplers import SAMPLERS, KnownTrial, Trial
from orchestrator.search.space import Settings, Space
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json
from orchestrator.sweeps.inner_study import inner_study
from orchestrator.sweeps.trial_results import TrialResult, best_of, results_of_trials
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
    """Of the training cases, on which each trial is trained and scored."""
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
    def sha256(self) -> str:
        """Digest of what the results of each of its trials follow from."""
        milestones = self.stopping.milestones if self.stopping else ()
        return sweep_sha256(self.run, num_folds=self.num_folds, milestones=milestones)

    def request_for(self, trials: Sequence[Trial]) -> RunRequest:
        """Return the run of these trials; raises ConfigError if a setting does not fit."""
        study = inner_study(self.run.study, self.training, trials=trials, num_folds=self.num_folds, sha256=self.sha256)
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


def sweep_sha256(run: RunRequest, *, num_folds: int, milestones: Sequence[int]) -> str:
    """Return the digest of what the results of each trial of a sweep follow from; `run` is that of its training."""
    (training,) = run.trainings
    # Not the study as a whole: it may get the best trial as a model, and the sweep still goes on.
    said = [definitions_of(run)[training.id], training.id, num_folds, list(milestones)]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def run_of_trials(run: RunRequest, study: Study, *, output: str) -> RunRequest:
    """Return the run of the study of a sweep, where `run` is that of the training on whose cases it searches."""
    # The cases of the training are those that the preset has left.
    preset = replace(run.preset, case_limits={})
    return replace(run, study=study, trainings=study.trainings(preset=preset), preset=preset, output=output)


def first_trials(request: SweepRequest) -> list[Trial]:
    """Return trials as they would be chosen if nothing were known, for a forecast."""
    drawn = SAMPLERS[request.sampler](request.space, (), num_trials=request.num_trials, seed=request.run.seed)
    return _numbered(drawn)


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
        results = results_of_trials(storage, trials, num_folds=request.num_folds, metric=request.metric)
        best = best_of(results)
        if trials:
            tables = write_sweep(storage, results, best=best, about=_about(request))
        # What was begun before goes first, also what failed; then there are more.
        if outcome is not None or not trials:
            num_more = _num_more(request, results)
            stopped_for_hours = num_more == 0 and len(trials) < request.num_trials
            if not num_more or not _choose(request, storage, results, num_trials=num_more):
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


def _num_more(request: SweepRequest, results: Sequence[TrialResult]) -> int:
    """Return how many trials to begin next."""
    learns = SAMPLERS[request.sampler].learns
    is_bounded = learns or request.max_hours is not None
    at_once = request.num_at_once or (TRIALS_AT_ONCE if is_bounded else request.num_trials)
    num = min(at_once, request.num_trials - len(results))
    if request.max_hours is None:
        return max(0, num)
    expected = request.run.preset.expected_training_s / 3600 * request.num_folds
    spent = [one.hours for one in results if one.hours > 0]
    of_each = sum(spent) / len(spent) if spent else expected
    return max(0, min(num, int((request.max_hours - sum(spent)) / of_each)))


def _choose(request: SweepRequest, storage: Storage, results: Sequence[TrialResult], *, num_trials: int) -> bool:
    """Write down the next trials; False if there are no more. Where another process has done so, its trials count."""
    known = [KnownTrial(settings=one.trial.settings, score=one.score) for one in results]
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
        trials = trials_of(storage)
        if not trials:
            raise ConfigError(f"--warm-start {name}: no sweep in {storage.location}; expected the name of one")
        results = results_of_trials(storage, trials, num_folds=None, metric=request.metric)
        found += [KnownTrial(settings=one.trial.settings, score=one.score, is_earlier=True) for one in results]
    return found


def trials_of(storage: Storage) -> list[Trial]:
    """Return every trial that was begun; raises IntegrityError if a record of them is not what was written."""
    settings: list[Settings] = []
    for key in run_paths.own_keys(storage, run_paths.TRIALS):
        record = read_json(storage, key, {"first": int, "trials": list})
        if record["first"] != len(settings) or not all(isinstance(one, dict) for one in record["trials"]):
            raise IntegrityError(f"{storage.location}/{key}: not the trials that were begun; expected what was written")
        settings += [_as_settings(one) for one in record["trials"]]
    return _numbered(settings)


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
        "num_folds": request.num_folds,
        "milestones": list(request.stopping.milestones) if request.stopping else [],
    }
