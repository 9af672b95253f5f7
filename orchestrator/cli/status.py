"""Say how far a run is, from another terminal or machine: everything is read from its output location."""

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from orchestrator.cli.console import (
    EXIT_DONE,
    EXIT_NOT_DONE,
    add_run,
    command_parser,
    print_whole,
    run_command,
    say,
)
from orchestrator.cli.text import usd_text
from orchestrator.cluster.config import OrderedMachine, RunName
from orchestrator.cluster.prices import load_prices
from orchestrator.cluster.registry import load_cluster
from orchestrator.configuration import absolute
from orchestrator.driver.lease import HEARTBEAT_S, DriverRecord, latest_driver
from orchestrator.driver.status import RunStatus, read_status
from orchestrator.errors import ClusterError, ConfigError, OrchestratorError
from orchestrator.events import finite_or_null
from orchestrator.progress import duration_text
from orchestrator.scheduling.resources import MachineState
from orchestrator.shipped import PRICES
from orchestrator.simulation.fleet import fleet_of, gpu_cost_usd
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.interface import Storage

NUM_LOOKS = 3
"""At the record of a driver on another machine, each after the time between two signs of life."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "status",
        "Show how far a run is. Exit code 0: all trainings of its latest call are done or not needed; 1: not yet; 2: "
        "there is no run, and no machine ordered for one.",
    )
    add_run(parser)
    parser.add_argument(
        "--cluster",
        type=Path,
        help="cluster file of the run: shows the machines ordered for it, and what rented ones cost",
    )
    parser.add_argument(
        "--prices",
        type=Path,
        default=PRICES,
        help="with --cluster: what its machines cost",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 if everything is done, 1 if not, 2 for no run or a bad file, 130 after Ctrl-C."""
    return run_command(build_parser(), arguments, show_status, bad_input=(OrchestratorError,))


def show_status(options: argparse.Namespace, console: Console, errors: Console) -> int:
    """Read how far the run is, and print that."""
    storage = open_storage(options.output)
    note = partial(say, console=errors)
    # Asked first: before the driver has begun, and where its output is not seen from here, they are all there is.
    ordered = ordered_for(options.output, cluster=options.cluster, note=note)
    try:
        status = read_status(storage)
    except ConfigError:
        if not ordered:
            raise
        show_ordered(ordered, as_json=options.json, console=console)
        return EXIT_NOT_DONE
    cost = describe_cost(status, cluster=options.cluster, prices=options.prices)
    driver = find_driver(storage, note=note)
    if options.json:
        record = {
            **asdict(status),
            "done": sorted(status.done),
            "left_out": sorted(status.left_out),
            "driver": driver.text,
            "remaining_s": driver.remaining_s,
            "cost": cost,
        }
        record["machines_ordered"] = [asdict(machine) for machine in ordered]
        say(json.dumps(finite_or_null(record), indent=1, default=str), console=console)
    else:
        show(status, driver=driver, cost=cost, storage=storage, console=console)
        for line in machine_lines(status, ordered, is_at_work=driver.is_at_work):
            say(line, console=console)
    return EXIT_DONE if status.done | status.left_out >= set(status.trainings) else EXIT_NOT_DONE


def show_ordered(ordered: Sequence[OrderedMachine], *, as_json: bool, console: Console) -> None:
    """Print the machines of a run of which nothing else is seen."""
    text = "the driver has not begun, or its output is not seen from here"
    if as_json:
        record = {"driver": text, "machines_ordered": [asdict(machine) for machine in ordered]}
        say(json.dumps(record, indent=1), console=console)
        return
    for line in (*ordered_lines(ordered), text):
        say(line, console=console)


@dataclass(frozen=True, kw_only=True, slots=True)
class DriverState:
    """The latest driver of a run."""

    is_at_work: bool
    text: str
    """What it does, and where."""
    remaining_s: float | None = None
    """What it says that the run still needs; None if it does not say so, or is not at work."""


def find_driver(storage: Storage, *, note: Callable[[str], None]) -> DriverState:
    """Look whether the latest driver is at work; `note` is told if one on another machine is watched for that."""
    driver = latest_driver(storage)
    if driver is None:
        return DriverState(is_at_work=False, text="there has been no driver")
    where = f"process {driver.pid} on {driver.host}"
    if driver.is_released:
        return DriverState(is_at_work=False, text=f"the latest driver has ended ({where})")
    alive = driver.is_at_work(storage)
    if alive is None:
        note(f"waiting up to {NUM_LOOKS * HEARTBEAT_S:.0f} s for a sign of life of the driver ({where})")
        alive = _changes(storage, driver)
    if alive:
        text = f"the driver is at work ({where})"
        return DriverState(is_at_work=True, text=text, remaining_s=driver.remaining_s)
    text = f"the latest driver is dead ({where}); the command that started the run goes on from what is done"
    return DriverState(is_at_work=False, text=text)


def _changes(storage: Storage, driver: DriverRecord) -> bool:
    for _ in range(NUM_LOOKS):
        time.sleep(HEARTBEAT_S)
        latest = latest_driver(storage)
        if latest is not None and latest.mark != driver.mark:
            return True
    return False


def describe_cost(status: RunStatus, *, cluster: Path | None, prices: Path) -> str:
    """Say how many GPU hours the run has taken, and what they cost where a cluster file has prices; empty without."""
    config = load_cluster(cluster) if cluster else None
    if not status.gpu_hours:
        return ""
    text = f"GPU hours so far: {sum(status.gpu_hours.values()):.1f}"
    if config is None or not config.is_rented:
        return text
    listed = load_prices(prices)
    cost = gpu_cost_usd(status.gpu_hours, fleet_of(config, prices=listed))
    if cost is None:
        return f"{text}; {config.path} has no machine with these GPUs"
    low, high = map(usd_text, cost)
    amount = low if low == high else f"{low} to {high}"
    return f"{text}, {amount} USD with the prices of {listed.date}, without machines that waited or have no GPU"


def ordered_for(output: str, *, cluster: Path | None, note: Callable[[str], None]) -> Sequence[OrderedMachine]:
    """Return the machines that whoever gives them has for a run; `note` is told if nobody says."""
    if cluster is None:
        return ()
    where = output if "://" in output else str(absolute(output, option="--output"))
    try:
        return load_cluster(cluster).ordered_machines(RunName(output=where, study=""))
    except ClusterError as error:
        note(f"machines ordered: {error}")
        return ()


def ordered_lines(ordered: Sequence[OrderedMachine]) -> list[str]:
    """Return what has become of machines that were ordered."""
    numbers = Counter((one.pool, one.state, one.reason) for one in ordered)
    return [
        f"machines ordered: {number} x {pool}: {state}{f' ({reason})' if reason else ''}"
        for (pool, state, reason), number in sorted(numbers.items())
    ]


def machine_lines(status: RunStatus, ordered: Sequence[OrderedMachine], *, is_at_work: bool) -> list[str]:
    """Return what the machines of a run do, those that are still to come and why they are not there."""
    lines = ordered_lines(ordered)
    if not is_at_work:
        return lines
    lines += [
        f"machines {state}: {', '.join(f'{number} x {size}' for size, number in sizes.items())}"
        for state, sizes in status.machines.items()
    ]
    if status.machines_missing:
        waiting = ", ".join(f"{number} x {what}" for what, number in status.machines_waiting.items())
        lines.append(f"machines asked for: {status.machines_missing}{f'; in the queue: {waiting}' if waiting else ''}")
    usable = {MachineState.BUSY, MachineState.IDLE}.intersection(status.machines)
    if not usable and (status.waiting or status.under_way):
        if status.machines_missing:
            to_come = "those asked for are not there yet"
        else:
            to_come = "none is asked for" if status.machines else "the cluster has told of none yet"
        lines.append(f"nothing starts: there is no machine that may be used, and {to_come}")
    return lines


def show(status: RunStatus, *, driver: DriverState, cost: str, storage: Storage, console: Console) -> None:
    """Print the status for people."""
    begun = "under way" if driver.is_at_work else "interrupted"
    needless = f"{len(status.left_out)} not needed, " if status.left_out else ""
    console.print(
        f"{len(status.done)} of {len(status.trainings)} trainings done, {len(status.under_way)} {begun}, "
        f"{len(status.waiting)} waiting, {needless}{len(status.failed)} stages failed; "
        f"{duration_text(status.training_s)} of training, prediction and scoring",
        style="bold",
        soft_wrap=True,
    )
    say(driver.text, console=console)
    if cost:
        say(cost, console=console)
    if status.under_way:
        table = Table("training", "stage", "epoch", "Dice", "s/epoch", "since", "where", box=None, padding=(0, 1))
        now = datetime.now(UTC)
        for training in status.under_way:
            table.add_row(
                training.id,
                training.stage,
                f"{training.epoch}/{training.num_epochs}" if training.num_epochs else "-",
                "-" if math.isnan(training.pseudo_dice) else f"{training.pseudo_dice:.3f}",
                "-" if math.isnan(training.epoch_elapsed_s) else f"{training.epoch_elapsed_s:.1f}",
                duration_text((now - training.since).total_seconds()),
                training.host or "-",
            )
        print_whole(table, console=console)
    if driver.remaining_s is not None:
        say(f"to go: about {duration_text(driver.remaining_s)}", console=console)
    for stage, (until, line) in status.delayed.items() if driver.is_at_work else ():
        wait = duration_text(max(0.0, (until - datetime.now(UTC)).total_seconds()))
        where = f"{storage.location}/{run_paths.stage_failure(stage)}"
        say(f"to be tried again in {wait}: {stage}: {line} ({where})", console=console)
    for stage, line in status.failed.items():
        say(f"failed: {stage}: {line} ({storage.location}/{run_paths.stage_failure(stage)})", console=console)
