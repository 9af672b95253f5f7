"""What would come of a run, and of other sizes of its cluster: played, not started."""

import argparse

from rich.console import Console

from orchestrator.cli.console import EXIT_DONE, EXIT_NOT_DONE, say
from orchestrator.cli.forecast_text import compare, describe
from orchestrator.cli.text import counted
from orchestrator.cluster.prices import load_prices
from orchestrator.driver.request import RunRequest
from orchestrator.shipped import PRICES
from orchestrator.simulation.forecast import Limits, best, simulate_run


def simulate(request: RunRequest, options: argparse.Namespace, *, console: Console) -> int:
    """Print what would come of the run on the cluster, and of other sizes; returns 1 if none keeps the limits."""
    prices = load_prices(options.prices or PRICES) if request.cluster.is_rented else None
    limits = Limits(deadline_hours=options.deadline, max_usd=options.max_cost)
    found = simulate_run(
        request.study,
        request.trainings,
        preset=request.preset,
        phantoms=request.data is None,
        cluster=request.cluster,
        prices=prices,
        seed=request.seed,
    )
    chosen = best([found.asked_for, *found.others], limits) if limits.are_set else None
    date = prices.date if prices else None
    lines = [
        f"{counted(len(request.trainings), 'training')} with preset {request.preset.name}, simulated: nothing is "
        "started."
    ]
    lines += describe(found.asked_for, prices_date=date)
    if found.others:
        lines += [
            "",
            "other clusters, none of which is beaten in time and cost:",
            *compare(found.others, chosen=chosen),
        ]
    if chosen:
        lines += ["", "the choice within the limits (*):", *describe(chosen, prices_date=date)]
    elif limits.are_set:
        lines += ["", "none of these clusters keeps the limits"]
    for line in lines:
        say(line, console=console)
    return EXIT_NOT_DONE if limits.are_set and chosen is None else EXIT_DONE
