"""Search for settings with which a model does better, on the training cases of one training."""

import argparse
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from orchestrator.api import load_study, make_request, require_data
from orchestrator.benchmark.loading import DEFAULT_STUDY
from orchestrator.benchmark.study import Study
from orchestrator.cli.console import EXIT_DONE, EXIT_NOT_DONE, command_parser, run_command, say
from orchestrator.cli.run.launch import launch_driver, study_argument
from orchestrator.cli.run.live_view import LiveView
from orchestrator.cli.run.options import check_machines, command_for, expect_above_0, words_of
from orchestrator.cli.text import flag, usd_text
from orchestrator.cluster.config import Driver, RunName
from orchestrator.cluster.prices import load_prices
from orchestrator.cluster.registry import load_cluster
from orchestrator.configuration import counted
from orchestrator.driver.before_start import training_hours
from orchestrator.driver.request import RunRequest
from orchestrator.errors import ConfigError
from orchestrator.search.early_stopping import EarlyStopping
from orchestrator.search.population import Population
from orchestrator.search.samplers import SAMPLERS
from orchestrator.search.space import Space, load_space
from orchestrator.shipped import LOCAL_CLUSTER, PRICES
from orchestrator.storage.filesystem import open_storage
from orchestrator.sweeps.as_run import expect_searched
from orchestrator.sweeps.budget import ROUNDED_HOURS, affordable
from orchestrator.sweeps.inner_study import settings_text
from orchestrator.sweeps.request import SweepRequest
from orchestrator.sweeps.sweep import first_trials, sweep
from orchestrator.sweeps.warm_start import trials_of_others
from orchestrator.sweeps.written import read_sweep

_SEARCH = ("trials", "sampler", "at_once", "stopping", "first_epochs", "reduction", "metric", "folds", "warm_start")
"""Options that a driver elsewhere is given as they are."""
_OF_THE_RUN = ("study", "matrix", "cluster", "data", "output", "preset", "seed")
"""Options that say to which run a sweep belongs."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "sweep",
        "Search for settings of a model: each trial is trained and scored within the training cases of one training, "
        "so that nothing is chosen on cases that are tested. The same command again goes on; with more --trials there "
        "are more. Exit code 0: done; 1: a trial failed, or none has trained to its end; 2: bad input.",
    )
    _add_request(parser)
    _add_search(parser)
    return parser


def _add_request(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--study", type=Path, default=DEFAULT_STUDY, help="whose training it is (default: the shipped study)")
    add("--only", required=True, metavar="TRAINING", help="the training on whose training cases is searched")
    add("--matrix", help="as for `run`")
    add("--cluster", type=Path, default=LOCAL_CLUSTER, help="where to run (default: this machine)")
    add("--data", help="folder or bucket with the data sets (default: nnUNet_raw or generated phantoms)")
    add("--output", help="that of the run to which the sweep belongs (default: as for `run`); it is below sweeps/NAME")
    add("--preset", default="smoke", help="how much each trial is trained (default: smoke)")
    add("--seed", type=int, default=0, help="of draws, phantoms and trainings (default: 0)")


def _add_search(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--space", type=Path, required=True, help="YAML file: settings, and the values that they may have")
    add("--name", help="of the sweep (default: that of the space file)")
    add("--trials", type=int, default=16, help="how many (default: 16)")
    add("--sampler", choices=list(SAMPLERS), default="random", help="who chooses trials (default: random)")
    add(
        "--at-once",
        type=int,
        metavar="N",
        help="most trials that are chosen together (default: all, or 4 if it matters)",
    )
    add(
        "--stopping",
        choices=["asha", "pbt", "none"],
        default="asha",
        help="asha: end trials that others beat (default); pbt: let them go on from others, with other settings",
    )
    add("--first-epochs", type=int, metavar="N", help="until a trial may end, or of a generation (default: a ninth)")
    add("--reduction", type=int, metavar="N", help="asha: one in N goes on (3); pbt: one in N copies another one (4)")
    add("--metric", choices=["dsc", "nsd"], default="dsc", help="by which trials are told apart (default: dsc)")
    add("--folds", type=int, help="of the training cases, on which each trial is trained (default: 1)")
    add("--max-hours", type=float, metavar="H", help="of training, of all trials: begin none that would exceed them")
    add("--max-cost", type=float, metavar="USD", help="of training, of all trials: begin none that would exceed it")
    add("--usd-per-hour", type=float, metavar="USD", help="with --max-cost: price of an hour of training")
    add("--machine", metavar="NAME", help="with --max-cost: a machine of --prices whose price that is, on demand")
    add(
        "--prices",
        type=Path,
        default=PRICES,
        help="with --machine: what machines cost (default: clusters/prices.yaml)",
    )
    add("--warm-start", action="append", default=[], metavar="NAME", help="let the sampler know the trials of a sweep")
    add("--simulate", action="store_true", help="say what it would take if no trial ended early; start nothing")
    add("--yes", action="store_true", help="with rented machines: start them without asking")
    add("--keep", action="store_true", help="leave machines running that were started for this sweep")
    add("--down", action="store_true", help="end the machines that were started for this sweep; start nothing")
    add("--apply", metavar="MODEL", help="add the best trial to the study file as a model of that name; start nothing")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code that its help promises."""
    return run_command(
        build_parser(),
        arguments,
        carry_out,
        interrupted="Interrupted. What is done is kept: the same command goes on from here.",
    )


def carry_out(options: argparse.Namespace, console: Console, _errors: Console) -> int:
    """Do what the command line asks for; returns the exit code."""
    chosen = [f"--{name}" for name in ("apply", "simulate", "down") if getattr(options, name)]
    if len(chosen) > 1:
        raise ConfigError(f"{' and '.join(chosen)}: expected one of them")
    request = _request(options)
    if options.apply:
        return _apply(request, options, console=console)
    if options.simulate:
        return _simulate(request, options, console=console)
    name = RunName(output=request.output, study=request.run.study.title, data=request.run.data)
    if options.down:
        request.run.cluster.bring_down(name, show=lambda line: say(line, console=console))
        return EXIT_DONE
    require_data(request.run)
    if request.run.cluster.is_elsewhere:
        driver = _driver(request, options, name=name)
        return launch_driver(request.run, driver, is_sure=options.yes, console=console)
    return _search_here(request, console=console)


def _driver(request: SweepRequest, options: argparse.Namespace, *, name: RunName) -> Driver:
    """Return the driver of a sweep that is carried out elsewhere; raises ConfigError for what no machine could do."""
    run = request.run
    driver_options = {
        "output": run.output,
        "preset": run.preset.name,
        "seed": run.seed,
        "matrix": options.matrix,
        "study": study_argument(run, options.study),
        "data": run.data,
        "only": request.training.id,
        "space": run.cluster.file_argument(options.space, option="--space"),
        "name": request.name,
        "max_hours": request.max_hours,
        **{option: getattr(options, option) for option in _SEARCH},
    }
    return Driver(
        run=name,
        module="orchestrator",
        arguments=("sweep", *words_of(driver_options)),
        training_hours=training_hours(request.request_for(first_trials(request))),
        keep=options.keep,
        needs_gpus=not run.preset.is_for_cpus,
    )


def _search_here(request: SweepRequest, *, console: Console) -> int:
    """Search on the cluster that this machine can reach, and say what came out."""
    request.run.cluster.authenticate()
    from orchestrator.ray_backend.on_demand import connect_to_ray

    with LiveView(console) as view:
        outcome = sweep(request, connect=connect_to_ray, listener=view)
    for key in outcome.tables:
        say(f"{request.output}/{key}", console=console)
    for line in outcome.failures:
        say(f"failed: {line}", console=console)
    if outcome.stopped_for_hours:
        hours = sum(one.hours for one in outcome.results)
        number = sum(one.trial.ended_after is None for one in outcome.results)
        what = "trials went on to the end" if request.population else "trials"
        say(
            f"{number} of {request.num_trials} {what}, {hours:.3g} hours of training: no more, since "
            f"{request.max_hours:.3g} are allowed",
            console=console,
        )
    if outcome.has_tried_all:
        say(_all_tried(request, len(outcome.results)), console=console)
    if outcome.best is None:
        say("No trial has trained to its end.", console=console)
        return EXIT_NOT_DONE
    num_ended = sum(one.trial.ended_after is not None for one in outcome.results)
    num_early = sum(not one.is_whole and one.score is not None for one in outcome.results) + num_ended
    num_failed = sum(one.score is None for one in outcome.results) - num_ended
    without = f", {num_failed} without a score" if num_failed else ""
    say(
        f"{len(outcome.results)} trials, {num_early} of them ended early{without}. The best, with "
        f"{request.metric.upper()} {outcome.best.score:.3f}: {settings_text(outcome.best.trial.changes)}",
        console=console,
    )
    say(
        "To train and score it as a model of the study: the same command with --apply MODEL, then `run`.",
        console=console,
    )
    return EXIT_NOT_DONE if outcome.failures else EXIT_DONE


def _all_tried(request: SweepRequest, number: int) -> str:
    return f"{number} of {request.num_trials} trials: there are no other settings in {request.space.path}"


def _request(options: argparse.Namespace) -> SweepRequest:
    for name in ("trials", "at_once", "first_epochs", "folds"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"{flag(name)} {value}: expected at least 1")
    if options.reduction is not None and options.reduction < 2:
        raise ConfigError(f"--reduction {options.reduction}: expected at least 2")
    usd_per_hour = _usd_per_hour(options)
    run = _run_request(options)
    check_machines(run, options)
    # A model may have its own.
    num_epochs = run.preset.changed_by(run.trainings[0].model.changes).num_epochs
    first_epochs = options.first_epochs or max(1, num_epochs // 9)
    space, reduction, is_population = load_space(options.space), options.reduction or 3, options.stopping == "pbt"
    _check_fidelities(options, space)
    stopping = EarlyStopping(first_epochs=first_epochs, reduction=reduction, num_epochs=num_epochs)
    population = Population(
        size=options.trials, every_epochs=first_epochs, reduction=options.reduction or 4, num_epochs=num_epochs
    )
    request = SweepRequest(
        run=run,
        name=options.name or options.space.stem,
        space=space,
        sampler=options.sampler,
        num_trials=options.trials,
        num_at_once=options.at_once,
        stopping=stopping if options.stopping == "asha" and not space.fidelities else None,
        population=population if is_population else None,
        reduction=reduction,
        metric=options.metric,
        num_folds=options.folds or 1,
        max_hours=min(_limits(options, usd_per_hour=usd_per_hour), default=None),
        warm_start=tuple(options.warm_start),
    )
    request.check()
    return request


def _check_fidelities(options: argparse.Namespace, space: Space) -> None:
    """Raise ConfigError for options that say what a space with fidelities says itself, or that mean nothing here."""
    if space.fidelities:
        for name, given in (
            ("--folds", options.folds is not None),
            ("--first-epochs", options.first_epochs is not None),
            (f"--stopping {options.stopping}", options.stopping != "asha"),
        ):
            if given:
                raise ConfigError(
                    f"{name}: {space.path} has fidelities, which say on how many folds and how long trials are "
                    "trained, and of which the best go on; expected one or the other"
                )
    if options.stopping == "pbt":
        if SAMPLERS[options.sampler].learns:
            raise ConfigError(
                f"--sampler {options.sampler}: learns from trials that have ended, and those of a population all begin "
                "together; expected random or grid with --stopping pbt"
            )
        if options.at_once is not None:
            raise ConfigError("--at-once: a population begins together; expected --trials alone with --stopping pbt")
    if options.warm_start and not SAMPLERS[options.sampler].learns:
        raise ConfigError(f"--warm-start: sampler {options.sampler} learns of no trial; expected --sampler optuna")


def _usd_per_hour(options: argparse.Namespace) -> float | None:
    """Return the price of an hour of training; None if nobody asks for it."""
    expect_above_0(options, "max_hours", "max_cost", "usd_per_hour")
    if options.max_cost is None:
        for name in ("usd_per_hour", "machine"):
            if getattr(options, name) is not None:
                raise ConfigError(f"{flag(name)}: only with --max-cost")
        return None
    if (options.usd_per_hour is None) == (options.machine is None):
        raise ConfigError(
            "--max-cost: expected either --usd-per-hour, the price of an hour of training, or --machine, a machine of "
            f"{options.prices} on which one trains"
        )
    if options.machine is None:
        return float(options.usd_per_hour)
    price = load_prices(options.prices).price(options.machine, is_spot=False)
    if not price:
        raise ConfigError(f"{options.prices}: {options.machine} costs nothing; expected a price, for --max-cost")
    return price


def _limits(options: argparse.Namespace, *, usd_per_hour: float | None) -> Iterator[float]:
    """Yield the hours of training that are allowed, by each limit."""
    if options.max_hours is not None:
        yield options.max_hours
    if usd_per_hour is not None:
        yield options.max_cost / usd_per_hour


def _run_request(options: argparse.Namespace) -> RunRequest:
    data = options.data or load_cluster(options.cluster).data
    request = make_request(
        load_study(options.study, data=data),
        matrix=options.matrix,
        only=[options.only],
        preset=options.preset,
        cluster=options.cluster,
        data=options.data,
        output=options.output,
        seed=options.seed,
    )
    if len(request.trainings) != 1:
        names = ", ".join(training.id for training in request.trainings[:3])
        raise ConfigError(
            f"--only {options.only}: {len(request.trainings)} trainings ({names} ...); expected the name of one, on "
            "whose training cases is searched"
        )
    if request.trainings[0].members:
        raise ConfigError(f"--only {options.only}: is an ensemble, which is not trained; expected one of its members")
    return request


def _simulate(request: SweepRequest, options: argparse.Namespace, *, console: Console) -> int:
    from orchestrator.cli.run.simulate import simulate

    trials, is_elsewhere = first_trials(request), request.run.cluster.is_elsewhere
    if not is_elsewhere or "://" in request.output:
        trials_of_others(request)
    enough, hours = affordable(request, trials)
    usd_per_hour = _usd_per_hour(options)
    cost = f", {usd_text(hours * usd_per_hour)} USD at {usd_per_hour:g} an hour" if usd_per_hour else ""
    if len(trials) < request.num_trials:
        say(_all_tried(request, len(trials)), console=console)
    number = f"{len(trials)} trials, {len(enough)} of them to the end" if request.population else ""
    say(
        f"{number or counted(len(enough), 'trial')}, about {hours:.3g} hours of training{cost}"
        f"{_limit_text(request, of=len(trials), enough=len(enough), hours=hours)}",
        console=console,
    )
    if not enough:
        return EXIT_NOT_DONE
    forecast = argparse.Namespace(prices=options.prices, deadline=None, max_cost=None)
    return simulate(request.request_for(enough), forecast, console=console)


def _limit_text(request: SweepRequest, *, of: int, enough: int, hours: float) -> str:
    """Say what the hours that are allowed have changed of a forecast."""
    if enough == of or request.max_hours is None:
        return ""
    if request.population is None:
        return f": no more of {of}, since {request.max_hours:.3g} are allowed"
    if hours > request.max_hours + ROUNDED_HOURS:
        told = (
            f"more than the {request.max_hours:.3g} that are allowed, since all train for a generation and one goes on"
        )
    else:
        told = f"no more go on, since {request.max_hours:.3g} are allowed"
    return f": {told}. Simulated are those that go on, from their beginning"


def _apply(request: SweepRequest, options: argparse.Namespace, *, console: Console) -> int:
    from orchestrator.sweeps.apply import apply_best, changed_ensembles

    storage = open_storage(request.output)
    record = read_sweep(storage)
    if record.training != request.training.id:
        raise ConfigError(
            f"{request.output}: a sweep on the training cases of {record.training}; expected --only {record.training}, "
            f"or --name of a sweep on those of {request.training.id}"
        )
    expect_searched(storage, request.run)

    def load(path: Path) -> Study:
        return load_study(path, data=options.data or load_cluster(options.cluster).data)

    apply_best(options.study, request.training, record, name=options.apply, load=load)
    study = load(options.study)
    new = next(model for model in study.models if model.name == options.apply)
    say(f"{options.study}: model {new.name}, {settings_text(record.best)}", console=console)
    if record.num_scored < record.num_trials:
        say(
            f"It is the best of the {record.num_scored} trials that have a score, of {record.num_trials}: the sweep is "
            "not over, or some have failed.",
            console=console,
        )
    for line in changed_ensembles(request.run.study, study):
        say(line, console=console)
    of_the_run = argparse.Namespace(**{name: getattr(options, name) for name in _OF_THE_RUN})
    say(f"To train it: {shlex.join(command_for(of_the_run, [f'model={new.name}']))}", console=console)
    return EXIT_DONE
