"""The trials of a search as it has written them down: settings, scores, cost."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from orchestrator.configuration import first_problem
from orchestrator.errors import IntegrityError
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json, write_json
from orchestrator.storage.json_values import JsonMapping

Finite = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fidelity:
    """How closely a trial is looked at: the same settings, trained less or more, on fewer or more folds."""

    preset: str
    """Name of that which says how much it is trained."""
    folds: Annotated[int, Field(ge=1)]
    """Of the training cases of the training that is searched on, on which it is trained and scored."""

    @property
    def text(self) -> str:
        """For people: `quick, 1 fold`."""
        return f"{self.preset}, {self.folds} fold{'s' if self.folds > 1 else ''}"


def trial_name(number: int) -> str:
    """Return the name of a trial, which is also that of its group of trainings: `trial007`."""
    return f"trial{number:03}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRecord:
    """One trial, as far as it is known."""

    number: int
    """From 0, in the order in which they were chosen."""
    settings: Mapping[str, object]
    dsc: Finite | None
    """Mean over cases that were left out, at the highest fidelity with scores; None if it is not scored."""
    nsd: Finite | None
    num_epochs: int
    is_whole: bool
    """Whether it has trained all epochs that it was to, at every fidelity."""
    hours: Finite
    """Of training, of all its folds and fidelities."""
    fidelity: int
    """Position of the one that its score is of."""
    first_score: Finite | None
    """What it was told apart by at the first fidelity, which all trials have."""
    epochs_in_all: int
    """Of all its folds and fidelities."""
    schedule: tuple[JsonMapping, ...] = ()
    """Of one whose settings have changed on the way: `from_epoch` and the settings from there on."""

    @property
    def name(self) -> str:
        """Of the trial."""
        return trial_name(self.number)


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
                begins = "ended" if source is None else trial_name(source) if source != trial else ""
                value = f"{values[trial]:.4f}" if trial in values else ""
                place = [str(number), str(generation["from_epoch"]), trial_name(trial), begins, value]
                rows.append([*place, *map(str, one["settings"].values())])
        return rows


GENERATION_HEAD = ("generation", "from epoch", "trial", "goes on from", "patch Dice")
"""Of a table of generations, before the settings; the Dice is that of the generation."""


_search: TypeAdapter[SearchRecord] = TypeAdapter(SearchRecord)


def search_of(trials: Sequence[TrialRecord], *, best: int | None, about: JsonMapping) -> SearchRecord:
    """Return a search; `about` are the other fields of it, as its file has them, and more for people."""
    return _search.validate_python({**_told(about), "trials": trials, "best": best})


def _told(about: JsonMapping) -> JsonMapping:
    of = about.get("population")
    return about if of is None else {**about, "population": {name: of[name] for name in ("size", "reduction")}}


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
    said = read_json(storage, run_paths.SWEEP)
    if "trials" not in said:
        return None
    try:
        # As JSON, which is strict with numbers and takes a list for a tuple.
        text = json.dumps({**_told(said), "best": said["best"]["trial"]})
        search = _search.validate_json(text, strict=True)
        _check(search)
        # What is shown of them must be there.
        search.rows_of_generations()
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        found = first_problem(error) if isinstance(error, ValidationError) else repr(error)
        raise IntegrityError(
            f"{storage.location}/{run_paths.SWEEP}: not the record of a search ({found}); expected what a sweep has "
            "written. The same sweep writes it again"
        ) from error
    return search


def _check(search: SearchRecord) -> None:
    for number, trial in enumerate(search.trials):
        if trial.number != number or trial.fidelity not in range(len(search.fidelities)):
            raise ValueError(f"trial {number} with another number, or at a fidelity that there is not")
        if trial.settings.keys() != search.trials[0].settings.keys():
            raise ValueError(f"trial {number} with other settings than the first")
        if not all(type(step["from_epoch"]) is int for step in trial.schedule):
            raise ValueError(f"trial {number} with a schedule that is none")
    if search.best not in (None, *range(len(search.trials))):
        raise ValueError(f"the best is trial {search.best}, which is not there")
