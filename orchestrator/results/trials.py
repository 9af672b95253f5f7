"""The trials of a search as it has written them down: settings, scores, cost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from orchestrator.errors import IntegrityError
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json, write_json
from orchestrator.storage.json_values import JsonMapping

_FIELDS = {"training": str, "metric": str, "sampler": str, "fidelities": list, "milestones": list}


@dataclass(frozen=True, kw_only=True, slots=True)
class Fidelity:
    """How closely a trial is looked at: the same settings, trained less or more, on fewer or more folds."""

    preset: str
    """Name of that which says how much it is trained."""
    folds: int
    """Of the training cases of the training that is searched on, on which it is trained and scored."""

    def __post_init__(self) -> None:
        """Refuse what a file cannot mean."""
        if type(self.folds) is not int or self.folds < 1 or not isinstance(self.preset, str):
            raise ValueError(f"a fidelity of preset {self.preset!r} and {self.folds!r} folds")

    @property
    def text(self) -> str:
        """For people: `quick, 1 fold`."""
        return f"{self.preset}, {self.folds} fold{'s' if self.folds > 1 else ''}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRecord:
    """One trial, as far as it is known."""

    number: int
    """From 0, in the order in which they were chosen."""
    settings: Mapping[str, object]
    dsc: float | None
    """Mean over cases that were left out, at the highest fidelity with scores; None if it is not scored."""
    nsd: float | None
    num_epochs: int
    is_whole: bool
    """Whether it has trained all epochs that it was to, at every fidelity."""
    hours: float
    """Of training, of all its folds and fidelities."""
    fidelity: int
    """Position of the one that its score is of."""
    first_score: float | None
    """What it was told apart by at the first fidelity, which all trials have."""
    epochs_in_all: int
    """Of all its folds and fidelities."""
    schedule: Sequence[JsonMapping] = ()
    """Of one whose settings have changed on the way: `from_epoch` and the settings from there on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchRecord:
    """A search."""

    training: str
    """Id of the training on whose cases it searches."""
    metric: str
    """`dsc` or `nsd`, by which trials are told apart."""
    sampler: str
    fidelities: tuple[Fidelity, ...]
    """At which trials are trained and scored, one after the other: the best of each go on to the next."""
    milestones: tuple[int, ...]
    """Epochs after which a trial may end early."""
    trials: tuple[TrialRecord, ...]
    best: int | None
    """Number of the best trial; None if none has trained to its end."""
    population: JsonMapping | None = None
    """`size` and `reduction`, if trials went on from each other at the milestones."""
    generations: tuple[JsonMapping, ...] = ()
    """How each member of a population went on with each generation: `from_epoch` and `members`, of which each has
    `trial`, the patch Dice `value` at the end of the generation before, `source` (none if it ended) and `settings`."""

    def score(self, trial: TrialRecord) -> float | None:
        """Return what a trial is told apart by."""
        return trial.nsd if self.metric == "nsd" else trial.dsc

    def ranked(self) -> list[TrialRecord]:
        """Return whole trials, then those that ended early, then those without a score, each the best first."""

        def place(trial: TrialRecord) -> tuple[bool, bool, int, float, int]:
            score = self.score(trial)
            return (score is None, not trial.is_whole, -trial.fidelity, -(score or 0.0), trial.number)

        return sorted(self.trials, key=place)

    def remark(self, trial: TrialRecord) -> str:
        """Return what there is to say of a trial beside its score, for people."""
        if trial.number == self.best:
            return "best"
        if trial.is_whole:
            return ""
        if self.has_ended(trial):
            return "ended early"
        if self.score(trial) is None:
            return "no score"
        return self.fidelities[trial.fidelity].text if len(self.fidelities) > 1 else "ended early"

    def has_ended(self, trial: TrialRecord) -> bool:
        """Whether a member of a population ended before the others."""
        members = self.generations[-1]["members"] if self.generations else ()
        return bool(members) and trial.number not in {one["trial"] for one in members if one["source"] is not None}

    def rows_of_generations(self) -> list[list[str]]:
        """Return, for people, GENERATION_HEAD and the settings of each member in each generation."""
        rows = []
        for number, generation in enumerate(self.generations, 1):
            after = self.generations[number]["members"] if number < len(self.generations) else ()
            values = {one["trial"]: one["value"] for one in after if one["value"] is not None}
            for one in generation["members"]:
                trial, source = one["trial"], one["source"]
                begins = "ended" if source is None else f"trial{source:03}" if source != trial else ""
                value = f"{values[trial]:.4f}" if trial in values else ""
                place = [str(number), str(generation["from_epoch"]), f"trial{trial:03}", begins, value]
                rows.append([*place, *map(str, one["settings"].values())])
        return rows


GENERATION_HEAD = ("generation", "from epoch", "trial", "goes on from", "patch Dice")
"""Of a table of generations, before the settings; the Dice is that of the generation."""


def search_of(trials: Sequence[TrialRecord], *, best: int | None, about: JsonMapping) -> SearchRecord:
    """Return a search; `about` are the other fields of it, as its file has them, and more for people."""
    told = {name: about[name] for name in ("training", "metric", "sampler")}
    fidelities = tuple(Fidelity(**one) for one in about["fidelities"])
    return SearchRecord(
        **told,
        fidelities=fidelities,
        milestones=tuple(about["milestones"]),
        trials=tuple(trials),
        best=best,
        population={name: about["population"][name] for name in ("size", "reduction")}
        if "population" in about
        else None,
        generations=tuple(about.get("generations", ())),
    )


def write_search(storage: Storage, search: SearchRecord, *, about: JsonMapping) -> None:
    """Write the record of a search, with what there is to say about it."""
    best = {"trial": search.best, "settings": None if search.best is None else search.trials[search.best].settings}
    record = {**about, "num_trials": len(search.trials), "best": best, "trials": [asdict(one) for one in search.trials]}
    write_json(storage, run_paths.SWEEP, record)


def read_search(storage: Storage) -> SearchRecord | None:
    """Return the record of a search; None if there is none, or one of before its trials were in it.

    Raises IntegrityError if it is damaged.
    """
    if not storage.exists(run_paths.SWEEP):
        return None
    said = read_json(storage, run_paths.SWEEP, _FIELDS)
    if "trials" not in said:
        return None
    try:
        trials = tuple(TrialRecord(**{**one, "schedule": tuple(one.get("schedule", ()))}) for one in said["trials"])
        best = None if said["best"]["trial"] is None else trials[said["best"]["trial"]].number
        search = search_of(trials, best=best, about=said)
        _check(trials, num_fidelities=len(search.fidelities))
        # What is shown of them must be there.
        search.rows_of_generations()
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"{storage.location}/{run_paths.SWEEP}: not the record of a search ({error!r}); expected what a sweep has "
            "written. The same sweep writes it again"
        ) from error
    return search


def _check(trials: tuple[TrialRecord, ...], *, num_fidelities: int) -> None:
    for number, trial in enumerate(trials):
        if not isinstance(trial.settings, dict) or trial.settings.keys() != trials[0].settings.keys():
            raise TypeError(f"trial {number} with other settings than the first")
        if not all(type(step["from_epoch"]) is int for step in trial.schedule):
            raise TypeError(f"trial {number} with a schedule that is none")
        numbers = [one for one in (trial.dsc, trial.nsd, trial.hours, trial.first_score) if one is not None]
        if trial.hours is None or not all(type(one) in {int, float} and math.isfinite(one) for one in numbers):
            raise TypeError(f"trial {number} with a score or hours that are no numbers")
        if type(trial.epochs_in_all) is not int or trial.fidelity not in range(num_fidelities):
            raise TypeError(f"trial {number} with epochs that are none, or at a fidelity that there is not")
        if type(trial.number) is not int or type(trial.num_epochs) is not int or trial.number != number:
            raise TypeError(f"trial {number} with another number, or epochs that are none")
