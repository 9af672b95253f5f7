"""The options of the command `run`: what is asked for, which of them belong together, how they are given again."""

import argparse
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.api import RequestOptions, load_study, make_request, require_data, require_phantoms
from orchestrator.benchmark.loading import DEFAULT_STUDY
from orchestrator.benchmark.presets import PRESETS
from orchestrator.cli.console import command_parser
from orchestrator.cli.text import flag
from orchestrator.cluster.environment import LAUNCHED_FROM
from orchestrator.cluster.registry import load_cluster
from orchestrator.configuration import is_folder
from orchestrator.driver.request import RunRequest
from orchestrator.errors import ConfigError
from orchestrator.shipped import LOCAL_CLUSTER
from orchestrator.simulation.fleet import SIZES

PARTNERS = {"json": "dry_run", "deadline": "simulate", "max_cost": "simulate", "prices": "simulate"}
"""Options that mean nothing without another one."""
ALONE = ("dry_run", "render", "status", "down", "simulate")
"""Options each of which says what is done instead of a run."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "run",
        "Train, predict, score and tabulate a study, by default the one that is shipped. "
        "Without --data, CT phantoms are generated. The same command again does only what is missing. Exit code 0: all "
        "trainings are done, with a score for every case; 1: something failed or is missing; 2: bad input.",
    )
    _add_request(parser)
    add = parser.add_argument
    add("--dry-run", action="store_true", help="show the trainings, check --data as far as given, start nothing")
    add("--json", action="store_true", help="with --dry-run: print JSON")
    sizes = f"{', '.join(map(str, SIZES[:-1]))} or {SIZES[-1]}"
    add(
        "--simulate",
        type=Path,
        metavar="FILE",
        help=f"play the run on this cluster file instead: time, cost; and with {sizes} of its GPU machines",
    )
    add("--deadline", type=float, metavar="HOURS", help="with --simulate: choose the cheapest of these that is in time")
    add("--max-cost", type=float, metavar="USD", help="with --simulate: choose the fastest of these within this budget")
    add("--prices", type=Path, help="with --simulate: what machines cost (default: clusters/prices.yaml)")
    add("--yes", action="store_true", help="with rented machines: start them without asking")
    add("--keep", action="store_true", help="leave machines running that were started for this run")
    add("--render", action="store_true", help="print the manifest that would be submitted, start nothing")
    add("--status", action="store_true", help="show how far this run is and its machines, as the command status does")
    add("--down", action="store_true", help="end the machines that were started for this run, and run nothing")
    return parser


def _add_request(parser: argparse.ArgumentParser) -> None:
    """Add the options that make a request, named as the API names them."""
    add = parser.add_argument
    add("--study", type=Path, default=DEFAULT_STUDY, help="what is trained (default: the shipped study)")
    add(
        "--cluster",
        type=Path,
        default=LOCAL_CLUSTER,
        help="where to run (default: this machine)",
    )
    add("--data", help="folder or bucket with the data sets (default: nnUNet_raw or generated phantoms)")
    add(
        "--output",
        help="folder or bucket for everything that the run writes (default: runs/PRESET, of another study than the "
        "shipped one runs/FOLDER-PRESET with the folder of its file)",
    )
    add(
        "--preset",
        default="smoke",
        help=f"how much: {', '.join(PRESETS)} or one of the study's (default: smoke)",
    )
    add("--matrix", help="which trainings of the study, all for every one (default: its first matrix)")
    add(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only trainings of such a name, or with FACET=PATTERN; may be repeated",
    )
    add(
        "--redo-changed",
        action="store_true",
        help="where files of --data have changed since this run has read them, remove all that was made of them and "
        "make it anew (default: refuse)",
    )
    add(
        "--until-decided",
        action="store_true",
        help="fold by fold, leave out trainings that can hardly change an answer of the study any more; false answers "
        "stay below 5 %% over all looks",
    )
    add("--seed", type=int, default=0, help="seed of phantoms and trainings (default: 0)")


def select(options: argparse.Namespace) -> RunRequest:
    """Read the files that the command line names; raises ConfigError if anything does not fit."""
    check_options(options)
    given = {name: getattr(options, name) for name in RequestOptions.__annotations__}
    given["cluster"] = options.simulate or options.cluster
    data = options.data or load_cluster(Path(given["cluster"])).data
    request = make_request(load_study(options.study, data=data), **given)
    check_machines(request, options)
    if options.dry_run and request.data and "://" not in request.data and not is_folder(request.data):
        raise ConfigError(f"--data {request.data}: no such folder of this machine; expected the one with the data sets")
    if not any(getattr(options, name) for name in ALONE):
        require_data(request)
    elif options.dry_run:
        require_phantoms(request)
    return request


def check_machines(request: RunRequest, options: argparse.Namespace) -> None:
    """Raise ConfigError for a question about machines that the cluster does not start, or would not leave running."""
    cluster = request.cluster
    if options.yes and (options.simulate or not cluster.is_rented):
        raise ConfigError(f"--yes: only with a --cluster whose machines are rented; {cluster.path} rents none")
    if options.keep and (options.simulate or not cluster.can_keep):
        raise ConfigError(
            f"--keep: only with a --cluster whose machines can outlast a run; those of {cluster.path} end with it"
        )


def check_options(options: argparse.Namespace) -> None:
    """Raise ConfigError for an option that would be ignored without another, and for a limit that none can keep."""
    for name, partner in PARTNERS.items():
        value = getattr(options, name)
        if value is not None and value is not False and not getattr(options, partner):
            raise ConfigError(f"{flag(name)}: only with {flag(partner)}")
    if options.until_decided and options.simulate:
        raise ConfigError("--until-decided: not with --simulate, which has no scores to decide by")
    chosen = [flag(name) for name in ALONE if getattr(options, name)]
    if len(chosen) > 1:
        raise ConfigError(f"{' and '.join(chosen)}: expected one of them")
    expect_above_0(options, "deadline", "max_cost")


def expect_above_0(options: argparse.Namespace, *names: str) -> None:
    """Raise ConfigError for an option that is given, and no finite number above 0."""
    for name in names:
        value = getattr(options, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{flag(name)} {value:g}: expected a number above 0")


def words_of(options: Mapping[str, object]) -> list[str]:
    """Return options as the words of a command line; what is not set is left out."""
    words: list[str] = []
    for name, value in options.items():
        if value is True:
            words.append(flag(name))
        elif isinstance(value, Sequence) and not isinstance(value, str):
            words += [word for one in value for word in (flag(name), str(one))]
        elif value is not None and value is not False:
            words += [flag(name), str(value)]
    return words


def command_for(options: argparse.Namespace, training_ids: Sequence[str]) -> list[str]:
    """Return the same command for some trainings alone."""
    defaults = vars(build_parser().parse_args([]))
    launched_from = {"cluster": os.environ[LAUNCHED_FROM]} if LAUNCHED_FROM in os.environ else {}
    given = {name: value for name, value in (vars(options) | launched_from).items() if value != defaults[name]}
    given.pop("only", None)
    return ["orchestrator", "run", *words_of(given | {"only": training_ids})]
