"""What a sweep leaves: its trials as tables, and a record for programs."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.errors import ConfigError
from orchestrator.results.trials import Fidelity, TrialRecord, write_search
from orchestrator.search.space import Settings
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json
from orchestrator.storage.json_values import JsonMapping
from orchestrator.sweeps.trial_results import TrialResult

TABLE = f"{run_paths.TABLES}/trials"


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepRecord:
    """What a finished sweep says of itself."""

    training: str
    """Id of the training on whose cases it searched."""
    num_trials: int
    best: Settings
    """Settings of the best trial."""


def write_sweep(
    storage: Storage, results: Sequence[TrialResult], *, best: TrialResult | None, about: JsonMapping
) -> tuple[str, ...]:
    """Write the trials of a sweep as Markdown and CSV and its record; returns the keys of the tables."""
    names = [name for name, _ in results[0].trial.settings] if results else []
    head = ["trial", *names, "DSC", "NSD", "cases", "epochs", "hours", ""]
    looks = [Fidelity(**one).text for one in about["fidelities"]]
    best_number = best.trial.number if best else None
    rows = [_row(one, looks=looks, is_best=one.trial.number == best_number) for one in _ranked(results)]
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
    ]
    storage.write_bytes(f"{TABLE}.csv", text.getvalue().encode())
    storage.write_bytes(f"{TABLE}.md", ("\n".join(lines) + "\n").encode())
    records = tuple(map(_record, results))
    write_search(storage, records, best=records[best.trial.number] if best else None, about=about)
    return (f"{TABLE}.md", f"{TABLE}.csv")


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
    )


def read_sweep(storage: Storage) -> SweepRecord:
    """Return what a sweep has found; raises ConfigError if there is none, or no trial of it has ended."""
    if not storage.exists(run_paths.SWEEP):
        raise ConfigError(f"{storage.location}: no sweep has come to an end there; give the same command without it")
    record = read_json(storage, run_paths.SWEEP, {"training": str, "num_trials": int, "best": dict})
    settings = record["best"].get("settings")
    if not isinstance(settings, dict):
        raise ConfigError(f"{storage.location}: no trial has trained to its end; expected one that can be applied")
    best = tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in settings.items())
    return SweepRecord(training=record["training"], num_trials=record["num_trials"], best=best)


def _ranked(results: Sequence[TrialResult]) -> list[TrialResult]:
    """Return whole trials, then those that ended early, then those without a score, each the best first."""
    return sorted(
        results,
        key=lambda one: (
            one.score is None,
            not one.is_whole,
            -one.trial.fidelity,
            -(one.score or 0),
            one.trial.number,
        ),
    )


def _row(result: TrialResult, *, looks: Sequence[str], is_best: bool) -> list[str]:
    early = looks[result.trial.fidelity] if len(looks) > 1 else "ended early"
    remark = "best" if is_best else "" if result.is_whole else early if result.dsc is not None else "no score"
    scores = ["-" if value is None else f"{value:.4f}" for value in (result.dsc, result.nsd)]
    settings = [str(value) for _, value in result.trial.settings]
    numbers = [str(result.num_cases), str(result.num_epochs), f"{result.hours:.3g}"]
    return [result.trial.name, *settings, *scores, *numbers, remark]
