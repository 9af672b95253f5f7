"""What would come of a run, and of other sizes of its cluster: played, not started."""

import argparse
import datetime
from collections.abc import Sequence

from rich.console import Console

from orchestrator.cli.console import EXIT_DONE, EXIT_NOT_DONE, say
from orchestrator.cli.text import usd_text
from orchestrator.cluster.prices import load_prices
from orchestrator.configuration import counted
from orchestrator.driver.request import RunRequest, graph_of
from orchestrator.progress import duration_text
from orchestrator.shipped import PRICES
from orchestrator.simulation.engine import Occupation, Trace
from orchestrator.simulation.fleet import Fleet
from orchestrator.simulation.forecast import Forecast, Limits, best, simulate_run

CHART_WIDTH = 60
_BLOCKS = " ▁▂▃▄▅▆▇█"


def simulate(request: RunRequest, options: argparse.Namespace, *, console: Console) -> int:
    """Print what would come of the run on the cluster, and of other sizes; returns 1 if none keeps the limits."""
    prices = load_prices(options.prices or PRICES) if request.cluster.is_rented else None
    limits = Limits(deadline_hours=options.deadline, max_usd=options.max_cost)
    asked = f"{counted(len(request.trainings), 'training')} with preset {request.preset.name}"
    say(f"{asked}, simulated: nothing is started.", console=console)
    found = simulate_run(
        graph_of(request),
        trainings=request.trainings,
        preset=request.preset,
        cluster=request.cluster,
        prices=prices,
        seed=request.seed,
    )
    chosen = best([found.asked_for, *found.others], limits) if limits.are_set else None
    date = prices.date if prices else None
    lines = describe(found.asked_for, prices_date=date)
    for name, form in found.other_forms.items():
        lines += ["", f"the same as {name}:", *describe(form, prices_date=date)]
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


def describe(forecast: Forecast, *, prices_date: datetime.date | None) -> list[str]:
    """Return what would come of a run, with the chart of its machines."""
    early, late = duration_text(forecast.early_s), duration_text(forecast.late_s)
    lines = [
        f"cluster: {forecast.fleet.title}",
        f"time: about {duration_text(forecast.makespan_s)} ({early} to {late} in the simulations)",
    ]
    if forecast.fleet.num_gpus:
        lines.append(f"GPU hours: {forecast.gpu_hours:.1f}, while machines hold {forecast.held_gpu_hours:.1f}")
    if forecast.usd is not None:
        lines.append(
            f"cost: about {usd_text(forecast.usd)} USD with the prices of {prices_date}, which are yours to check"
        )
    lines.append(
        f"spot interruptions: {forecast.num_interruptions:.0f}; "
        f"requests to stop, for longer trainings or to go on with more workers: {forecast.num_requests_to_stop:.0f}"
    )
    return [*lines, "", *utilisation_chart(forecast.trace, forecast.fleet)]


def utilisation_chart(trace: Trace, fleet: Fleet, *, width: int = CHART_WIDTH) -> list[str]:
    """Return one line a kind of machine: how many of its GPUs (or CPUs, where it has none) are taken over time."""
    lines = [f"taken over time, one column is {duration_text(trace.makespan_s / width)}"]
    for pool in fleet.pools:
        name, offered = pool.name, pool.offered
        by_gpu, column_s = offered.gpus > 0, trace.makespan_s / width
        taken = [0.0] * width
        for one in trace.occupations:
            if one.pool == name:
                _take(taken, one, amount=one.gpus if by_gpu else one.cpus, column_s=column_s)
        most = pool.max_nodes * (offered.gpus if by_gpu else offered.cpus)
        shares = [seconds / (most * column_s) for seconds in taken]
        unit = "GPUs" if by_gpu else "CPUs"
        lines.append(f"{name:>16} {''.join(map(_block, shares))} {sum(shares) / width:4.0%} of {most:g} {unit}")
    return lines


def compare(forecasts: Sequence[Forecast], *, chosen: Forecast | None) -> list[str]:
    """Return a table of clusters, one line each."""
    width = max(len(one.fleet.title) for one in forecasts)
    lines = [f"{'':2}{'cluster':<{width}}{'GPUs':>5}{'hours':>8}{'longest':>9}{'USD':>8}"]
    for one in forecasts:
        usd = "-" if one.usd is None else usd_text(one.usd)
        lines.append(
            f"{'* ' if one is chosen else '  '}{one.fleet.title:<{width}}{one.fleet.num_gpus:>5}"
            f"{one.makespan_s / 3600:>8.1f}{one.late_s / 3600:>9.1f}{usd:>8}"
        )
    return lines


def _take(taken: list[float], one: Occupation, *, amount: float, column_s: float) -> None:
    """Add the seconds of a stage, times what it takes, to the columns of a chart."""
    if not amount:
        return
    for column in range(int(one.start_s / column_s), min(len(taken) - 1, int(one.end_s / column_s)) + 1):
        overlap_s = min(one.end_s, (column + 1) * column_s) - max(one.start_s, column * column_s)
        taken[column] += amount * max(0.0, overlap_s)


def _block(share: float) -> str:
    return _BLOCKS[min(len(_BLOCKS) - 1, max(0, round(share * (len(_BLOCKS) - 1))))]
