"""What is asked of a sweep, and what follows from that alone."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

from orchestrator.benchmark.definition import Training
from orchestrator.benchmark.study import Study
from orchestrator.benchmark.trainings.definitions import DEFINITIONS_FORMAT
from orchestrator.configuration import expect_known
from orchestrator.driver.request import RunRequest, definitions_of
from orchestrator.errors import ConfigError
from orchestrator.results.trials import Fidelity
from orchestrator.search.early_stopping import EarlyStopping
from orchestrator.search.population import Generation, Population
from orchestrator.search.samplers import Trial
from orchestrator.search.space import Space
from orchestrator.storage import run_paths
from orchestrator.storage.json_values import JsonMapping, JsonObject
from orchestrator.sweeps.allowed import check_population, check_values
from orchestrator.sweeps.inner_study import changes_for, inner_study


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
    population: Population | None = None
    """How trials go on from each other instead."""
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
        return sweep_sha256(
            self.run, fidelities=self.fidelities, milestones=self.milestones, population=self._of_population
        )

    @property
    def milestones(self) -> tuple[int, ...]:
        """Epochs after which trials may end, or go on from others."""
        if self.population is not None:
            return self.population.boundaries
        return self.stopping.milestones if self.stopping else ()

    @property
    def _of_population(self) -> JsonObject | None:
        return {"size": self.population.size, "reduction": self.population.reduction} if self.population else None

    @property
    def about(self) -> JsonObject:
        """What it is about, as its record says it."""
        said = {
            "training": self.training.id,
            "preset": self.run.preset.name,
            "metric": self.metric,
            "sampler": self.sampler,
            "seed": self.run.seed,
            "fidelities": [asdict(one) for one in self.fidelities],
            "milestones": list(self.milestones),
            "space": {name: {one.kind: one.values} for name, one in self.space.settings.items()},
            **({"population": self._of_population} if self.population else {}),
            "definitions_format": DEFINITIONS_FORMAT,
            "sha256": self.sha256,
        }
        # As it is read again.
        found: JsonObject = json.loads(json.dumps(said))
        return found

    def check(self) -> None:
        """Raise ConfigError for names, settings and fidelities that cannot be."""
        for option, names in (("--name", (self.name,)), ("--warm-start", self.warm_start)):
            for name in names:
                if not run_paths.is_name(name):
                    raise ConfigError(
                        f"{option} {name!r}: is part of the names of files; expected letters, digits, `_`, `.` and `-`"
                    )
        check_values(self.space, preset=self.run.preset)
        self._check_schedules()
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

    def _check_schedules(self) -> None:
        """Raise ConfigError for what cannot change during a training, or what a schedule says that is there already."""
        base = self.run.preset.changed_by(self.training.model.changes)
        said = {name for step in base.schedule for name in step.settings}
        varied = said if self.population else said.intersection(self.space.settings)
        if varied:
            raise ConfigError(
                f"{self.training.id}: has a schedule that says its {', '.join(sorted(varied))}; expected a model and "
                "a preset without one, or other settings"
            )
        if self.population is None:
            return
        check_population(self.space)
        if not self.population.boundaries:
            raise ConfigError(
                f"--first-epochs {self.population.every_epochs}: expected fewer than the {base.num_epochs} of "
                f"{self.training.id} with preset {base.name}, after each of which a population is compared"
            )

    def request_for(self, trials: Sequence[Trial], *, generation: Generation | None = None) -> RunRequest:
        """Return the run of these trials; raises ConfigError if a setting does not fit.

        Of a population with a generation it is the run of that one, and else of all of them.
        """
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
        made = run_of_trials(self.run, study, output=self.output)
        return replace(made, early_stopping=self.stopping, generation=generation)


def sweep_sha256(
    run: RunRequest, *, fidelities: Sequence[Fidelity], milestones: Sequence[int], population: JsonMapping | None = None
) -> str:
    """Return the digest of what the results of each trial of a sweep follow from; `run` is that of its training."""
    (training,) = run.trainings
    # Not the study as a whole: it may get the best trial as a model, and the sweep still goes on.
    looks = [[one.preset, one.folds, changes_for(run.study, one, preset=run.preset)] for one in fidelities]
    said: list[object] = [definitions_of(run)[training.id], training.id, looks, list(milestones)]
    said += [population] if population else []
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def run_of_trials(run: RunRequest, study: Study, *, output: str) -> RunRequest:
    """Return the run of the study of a sweep, where `run` is that of the training on whose cases it searches."""
    # The cases of the training are those that the preset has left.
    preset = replace(run.preset, case_limits={})
    return replace(
        run,
        study=study,
        trainings=study.trainings(preset=preset),
        preset=preset,
        output=output,
        study_file=run.study_file or run.study.path,
    )
