"""What a sweep leaves: its trials as tables, and a record for programs."""

import csv
import io
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.errors import ConfigError
from orchestrator.results.trials import GENERATION_HEAD, SearchRecord, TrialRecord, read_search, search_of, write_search
from orchestrator.search.space import Settings
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json
from orchestrator.storage.json_values import JsonMapping
from orchestrator.sweeps.chosen import all_generations_of, as_settings
from orchestrator.sweeps.trial_results import TrialResult

TABLE = f"{run_paths.TABLES}/trials"


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepRecord:
    """What a finished sweep says of itself."""

    training: str
    """Id of the training on whose cases it searched."""
    num_trials: int
    num_scored: int
    """Of them: among these, the best one is."""
    best: Settings
    """Settings of the best trial, or `schedule` with those from each epoch on."""
    num_epochs: int = 0
    """That it was trained."""


def write_sweep(
    storage: Storage, results: Sequence[TrialResult], *, best: TrialResult | None, about: JsonMapping
) -> tuple[str, ...]:
    """Write the trials of a sweep as Markdown and CSV and its record; returns the keys of the tables."""
    names = [name for name, _ in results[0].trial.settings] if results else []
    head = ["trial", *names, "DSC", "NSD", "cases", "epochs", "hours", ""]
    if "population" in about:
        about = {**about, "generations": all_generations_of(storage)}
    search = search_of(list(map(_record, results)), best=best.trial.number if best else None, about=about)
    rows = [_row(search, trial, result=results[trial.number]) for trial in search.ranked()]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[*head[:-1], "remark"], *rows])
    lines = [
        f"# {len(results)} trials on the training cases of {about['training']}",
        "",
        f"Told apart by {str(about['metric']).upper()} on cases that were left out of their training, the best first. "
        "The score of the best one is that of the luckiest of all, and too good: what its settings are worth shows "
        "where cases are scored on which nothing was chosen.",
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        *_lines_of_generations(search),
    ]
    storage.write_bytes(f"{TABLE}.csv", text.getvalue().encode())
    storage.write_bytes(f"{TABLE}.md", ("\n".join(lines) + "\n").encode())
    write_search(storage, search, about=about)
    return (f"{TABLE}.md", f"{TABLE}.csv")


def _lines_of_generations(search: SearchRecord) -> list[str]:
    """Return a table of how the members of a population went on; nothing of others."""
    rows = search.rows_of_generations()
    if not rows:
        return []
    head = [*GENERATION_HEAD, *search.trials[0].settings]
    return ["", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]


def _record(result: TrialResult) -> TrialRecord:
    return TrialRecord(
        number=result.trial.number,
        settings=dict(result.trial.settings),
        dsc=result.dsc,
        nsd=result.nsd,
        num_epochs=result.num_epochs,
        is_whole=result.is_whole,
        hours=result.hours,
        fidelity=result.trial.fidelity,
        first_score=result.scores[0],
        epochs_in_all=result.epochs_in_all,
        schedule=result.trial.steps,
    )


def read_sweep(storage: Storage) -> SweepRecord:
    """Return what a sweep has found; raises ConfigError if there is none, or no trial of it has ended."""
    search = read_search(storage)
    if search is None:
        raise ConfigError(f"{storage.location}: no sweep has come to an end there; give the same command without it")
    if search.best is None:
        raise ConfigError(f"{storage.location}: no trial has trained to its end; expected one that can be applied")
    found = search.trials[search.best]
    settings = {"schedule": tuple(found.schedule)} if found.schedule else found.settings
    num_scored = sum(search.score(trial) is not None for trial in search.trials)
    return SweepRecord(
        training=search.training,
        num_trials=len(search.trials),
        num_scored=num_scored,
        best=as_settings(settings),
        num_epochs=found.num_epochs,
    )


_DIGEST = "sha256"
_WHAT_DIFFERS = {
    _DIGEST: "data, labels or other things that its results follow from",
    "milestones": "--stopping, --first-epochs, --reduction or length of training: trials may end, or go on from "
    "others, after other epochs",
}


def expect_same(storage: Storage, about: JsonMapping) -> None:
    """Raise ConfigError if the trials of a location are of another sweep than `about`, which its record would say."""
    found = read_json(storage, run_paths.SWEEP) if storage.exists(run_paths.SWEEP) else {}
    for name, own in about.items():
        if name not in found:
            raise ConfigError(
                f"{storage.location}: holds a sweep of another version, which does not say its {name}; expected "
                "--name with another name"
            )
        if found[name] != own:
            said = "" if name == _DIGEST else f" ({reprlib.repr(found[name])}, not {reprlib.repr(own)})"
            raise ConfigError(
                f"{storage.location}: holds a sweep with another {_WHAT_DIFFERS.get(name, name)}{said}; expected "
                "--name with another name for this one, or what that one was begun with"
            )


def _row(search: SearchRecord, trial: TrialRecord, *, result: TrialResult) -> list[str]:
    scores = ["-" if value is None else f"{value:.4f}" for value in (trial.dsc, trial.nsd)]
    settings = [str(value) for value in trial.settings.values()]
    numbers = [str(result.num_cases), str(trial.num_epochs), f"{trial.hours:.3g}"]
    return [result.trial.name, *settings, *scores, *numbers, search.remark(trial)]
