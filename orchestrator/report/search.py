"""What a report says of a search: how far it has come, at which cost, and which settings it depended on."""

from dataclasses import dataclass

from orchestrator.report.search_figures import best_so_far, parallel_coordinates
from orchestrator.results.trials import GENERATION_HEAD, SearchRecord, TrialRecord
from orchestrator.statistics.importance import Importance, importances


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownTrial:
    """A line of the table of trials."""

    name: str
    settings: tuple[str, ...]
    score: float | None
    num_epochs: int
    hours: float
    remark: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSection:
    """A search as a page shows it."""

    sentence: str
    metric: str
    settings: tuple[str, ...]
    """Names."""
    trials: tuple[ShownTrial, ...]
    """The best first."""
    importances: tuple[Importance, ...]
    """Empty if there are too few trials."""
    num_scored: int
    generations: tuple[tuple[str, ...], ...]
    """Of a population: the head, then a line a member and generation."""
    best_so_far: str
    """SVG."""
    parallel_coordinates: str
    """SVG."""


def search_section(search: SearchRecord) -> SearchSection | None:
    """Return what is to be said of a search; None as long as no trial has a score."""
    scored = [trial for trial in search.trials if search.score(trial) is not None]
    if not scored:
        return None
    names = tuple(scored[0].settings)
    return SearchSection(
        sentence=_sentence(search),
        metric=search.metric.upper(),
        settings=names,
        trials=tuple(_shown(search, trial) for trial in search.ranked()),
        # The last settings of a member of a population explain little of what it has become.
        importances=()
        if search.population
        else importances(
            {name: [trial.settings[name] for trial in scored] for name in names},
            # Those of other fidelities do not compare, and all trials have the first.
            [trial.first_score or 0.0 for trial in scored],
        ),
        generations=tuple(map(tuple, [[*GENERATION_HEAD, *names], *search.rows_of_generations()]))
        if search.generations
        else (),
        num_scored=len(scored),
        best_so_far=best_so_far(search),
        parallel_coordinates=parallel_coordinates(search),
    )


def _sentence(search: SearchRecord) -> str:
    num_ended = sum(search.has_ended(trial) for trial in search.trials)
    num_early = sum(not trial.is_whole and search.score(trial) is not None for trial in search.trials) + num_ended
    num_failed = sum(search.score(trial) is None for trial in search.trials) - num_ended
    hours = sum(trial.hours for trial in search.trials)
    epochs = sum(trial.epochs_in_all for trial in search.trials)
    failed = f", {num_failed} without a score" if num_failed else ""
    return (
        f"{len(search.trials)} trials on the training cases of {search.training}, chosen by the sampler "
        f"{search.sampler}: {epochs} epochs and {hours:.3g} hours of training. {num_early} ended early{failed}."
        f"{_about_population(search)}{_about_fidelities(search)}{_about_best(search)}"
    )


def _about_population(search: SearchRecord) -> str:
    if search.population is None:
        return ""
    copied = [one for generation in search.generations for one in generation["members"]]
    number = sum(one["source"] not in {None, one["trial"]} for one in copied)
    return (
        f" They are a population: after {', '.join(map(str, search.milestones))} epochs the worst one in "
        f"{search.population['reduction']} went on from one of the best, with other settings ({number} times in all). "
        "Shown are the last settings of each."
    )


def _about_fidelities(search: SearchRecord) -> str:
    if len(search.fidelities) < 2:
        return ""
    numbers = [
        f"{sum(trial.fidelity >= place for trial in search.trials)} at {fidelity.text}"
        for place, fidelity in enumerate(search.fidelities)
    ]
    return f" The best of each fidelity went on to the next: {'; '.join(numbers)}."


def _about_best(search: SearchRecord) -> str:
    if search.best is None:
        return ""
    best = search.trials[search.best]
    settings = ", ".join(f"{name} {_text(value)}" for name, value in best.settings.items())
    settings += f" from epoch {best.schedule[-1]['from_epoch']} on" if best.schedule else ""
    return (
        f" The best of those that trained to their end, {best.name}, has {search.metric.upper()} "
        f"{search.score(best):.3f}: {settings}. It is the luckiest of many, and too good: what its settings are worth "
        "shows where cases are scored on which nothing was chosen."
    )


def _shown(search: SearchRecord, trial: TrialRecord) -> ShownTrial:
    return ShownTrial(
        name=trial.name,
        settings=tuple(map(_text, trial.settings.values())),
        score=search.score(trial),
        num_epochs=trial.num_epochs,
        hours=trial.hours,
        remark=search.remark(trial),
    )


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
