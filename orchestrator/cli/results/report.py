"""Write the report of a run: one page that needs nothing else, and the files beside it."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from orchestrator.api import request_of_run, write_report
from orchestrator.cli.console import EXIT_DONE, add_run, command_parser, run_command, say
from orchestrator.errors import ConfigError
from orchestrator.shipped import PRICES
from orchestrator.storage.filesystem import open_storage


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "report",
        "Write report/index.html of a run from what is committed so far, with scores.csv, scores.parquet, summary.json "
        "and the paragraph on methods beside it. A run writes it at its end as well; this may be called while it goes "
        "on. Exit code 0: written; 2: there is no run, or it is one of another study.",
    )
    add_run(parser)
    parser.add_argument("--study", type=Path, help="what it trains (default: the file with which it was started)")
    parser.add_argument("--cluster", type=Path, help="cluster file of the run: shows what its GPU hours cost if rented")
    parser.add_argument("--prices", type=Path, default=PRICES, help="with --cluster: what its machines cost")
    parser.add_argument(
        "--live",
        action="store_true",
        help="write nothing, but show the page at an address of this machine, with how far the run is, until Ctrl-C; "
        "it is read again every ten seconds",
    )
    parser.add_argument("--port", type=int, default=0, help="with --live: where (default: a free port)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code that its help promises."""
    return run_command(build_parser(), arguments, report)


def report(options: argparse.Namespace, console: Console, _errors: Console) -> int:
    """Write the report that the command line asks for, or show it."""
    if options.live:
        return show_live(options, console=console)
    written = write_report(options.output, study=options.study, cluster=options.cluster, prices=options.prices)
    say(written, console=console)
    return EXIT_DONE


def show_live(options: argparse.Namespace, *, console: Console) -> int:
    """Show the report of a run that goes on, until Ctrl-C."""
    from orchestrator.driver.results.live import LiveReport
    from orchestrator.report.live.server import LiveServer

    if options.cluster is not None:
        raise ConfigError("--cluster: not with --live; expected one of both")
    if not 0 <= options.port < 2**16:
        raise ConfigError(f"--port {options.port}: expected a number from 0 to 65535")
    storage = open_storage(options.output)
    found = LiveReport(request_of_run(storage, study=options.study), storage)
    # What is wrong with the run is said here, and not in a browser.
    found.page()
    try:
        server = LiveServer(found.page, port=options.port)
    except OSError as error:
        raise ConfigError(f"--port {options.port}: cannot be used ({error.strerror}); expected a free one") from error
    with server:
        say(
            f"{server.address}\nThe address is a secret: whoever of this machine has it sees the page.", console=console
        )
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("Ended; a run that is at work goes on.", console=console)
    return EXIT_DONE
