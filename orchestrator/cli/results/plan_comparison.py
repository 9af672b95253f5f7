"""Say what it would take to answer the questions of a study, from what the scores of a run vary by."""

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from orchestrator.api import plan_comparison
from orchestrator.cli.console import EXIT_DONE, command_parser, print_whole, run_command, say
from orchestrator.cli.text import flag
from orchestrator.driver.results.planned import PlannedComparison
from orchestrator.errors import ConfigError
from orchestrator.statistics.comparison import FEWEST_DIFFERENCES
from orchestrator.statistics.intervals import FEWEST_CLUSTERS
from orchestrator.statistics.planning import Design, false_positives, fewest_patients, power_of, smallest_difference

SEEDS = (1, 2, 3, 5, 10)
"""With which every fold would be trained."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "plan-comparison",
        "For each question of a study, say what the differences of a finished or pilot run vary by, and how many "
        "patients and trainings would show a difference of some size, at which cost in hours. Exit code 0: done; 2: "
        "bad input.",
    )
    add = parser.add_argument
    add(
        "--output",
        action="append",
        required=True,
        help="folder or bucket of a run; may be repeated, for runs of the same study with other seeds",
    )
    add("--study", type=Path, help="what it trains (default: the file with which it was started)")
    add("--smallest", type=float, default=0.01, metavar="D", help="difference that is to be shown (default: 0.01)")
    add("--power", type=float, default=0.8, help="chance with which it is to be shown (default: 0.8)")
    add("--alpha", type=float, default=0.05, help="of all tests of a question together (default: 0.05)")
    add("--metric", choices=["dsc", "nsd"], default="dsc", help="what is compared (default: dsc)")
    add("--structure", help="only this one")
    add("--usd-per-hour", type=float, metavar="USD", help="price of an hour of training, to show costs")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code that its help promises."""
    return run_command(build_parser(), arguments, show_plans)


def show_plans(options: argparse.Namespace, console: Console, _errors: Console) -> int:
    """Print what the command line asks for."""
    for name, low, high in (("smallest", 0, 1), ("power", 0, 1), ("alpha", 0, 1), ("usd_per_hour", 0, math.inf)):
        value = getattr(options, name)
        if value is not None and not low < value < high:
            bound = f" and below {high:g}" if math.isfinite(high) else ""
            raise ConfigError(f"{flag(name)} {value:g}: expected a number above {low}{bound}")
    everything = plan_comparison(options.output, study=options.study)
    wanted = [one for one in everything if one.metric == options.metric]
    structures = sorted({one.structure for one in wanted})
    if options.structure is not None:
        wanted = [one for one in wanted if one.structure == options.structure]
    if not wanted:
        raise ConfigError(
            f"{options.output[0]}: nothing to compare; expected scores of both sides of a question of the study"
            + (f", in one of {', '.join(structures)}" if structures else "")
        )
    for one in wanted:
        _show(one, options, console=console)
    for line in _explanations(options):
        say(line, console=console)
    return EXIT_DONE


def _show(plan: PlannedComparison, options: argparse.Namespace, *, console: Console) -> None:
    """Print one difference: what it varies by, and what would show it."""
    for line in _description(plan, options):
        say(line, console=console)
    if not _varies(plan):
        say("", console=console)
        return
    head = ["seeds", "trainings", "hours", *(["USD"] if options.usd_per_hour else [])]
    table = Table(
        *head, f"power with {plan.num_patients} patients", "shows from", "patients needed", box=None, padding=(0, 2)
    )
    for row in _rows(plan, options):
        table.add_row(*row)
    print_whole(table, console=console)
    say("", console=console)


def _varies(plan: PlannedComparison) -> bool:
    """Whether the differences do, as far as can be told."""
    found = plan.components
    return any(sd > 0 for sd in (found.patient_sd, found.training_sd, found.residual_sd))


def _description(plan: PlannedComparison, options: argparse.Namespace) -> Iterator[str]:
    found, metric = plan.components, plan.metric.upper()
    yield f"{plan.question}: {plan.against} against {plan.baseline}, {plan.structure}, {plan.evaluation_set}"
    patients, trainings = ("unknown" if math.isnan(sd) else f"{sd:.4f}" for sd in (found.patient_sd, found.training_sd))
    rest = f", of the rest {found.residual_sd:.4f}" if found.residual_sd > 0 else ""
    yield (
        f"  mean difference of {metric} {found.difference:+.4f}; SD of patients {patients}, of trainings "
        f"{trainings}{rest} (n = {found.num_patients} patients, {found.num_trainings} pairs of trainings)"
    )
    if math.isnan(found.patient_sd):
        yield "  one patient does not tell how much patients differ: score another"
        return
    if math.isnan(found.training_sd):
        yield "  one pair of trainings does not tell how much trainings differ: train another fold, or another seed"
        return
    if not _varies(plan):
        yield "  all differences are equal: nothing tells how much those of other patients or trainings would vary"
        return
    if found.num_patients < FEWEST_CLUSTERS:
        yield (
            f"  n is too small to plan from: the SD of {found.num_patients} patients may be far from that of all; "
            f"the table is of use from {FEWEST_CLUSTERS} patients on"
        )
    design = Design(num_patients=found.num_patients, num_trainings=found.num_trainings)
    rate = false_positives(design, found, alpha=options.alpha)
    told = f"  a test over patients alone would call equal methods different in {rate:.0%} of such comparisons"
    if f"{rate:.0%}" == f"{options.alpha:.0%}":
        yield f"{told}, as it should: trainings hardly differ here"
    else:
        yield f"{told}, and not in {options.alpha:.0%}, since other trainings would differ otherwise"


def _rows(plan: PlannedComparison, options: argparse.Namespace) -> Iterator[list[str]]:
    alpha = options.alpha / plan.num_tests
    # Of the folds of the study: a pilot of some of them tests its patients in all that it has.
    components = replace(plan.components, share_tested=plan.share_tested)
    for seeds in SEEDS:
        pairs = seeds * plan.num_folds
        design = Design(num_patients=plan.num_patients, num_trainings=pairs)
        chance = power_of(design, components, difference=options.smallest, alpha=alpha)
        hours = pairs * plan.hours_a_pair
        least = smallest_difference(design, components, power=options.power, alpha=alpha)
        needed = fewest_patients(
            components, num_trainings=pairs, difference=options.smallest, power=options.power, alpha=alpha
        )
        yield [
            str(seeds),
            str(2 * pairs),
            f"{hours:.3g}",
            *([f"{hours * options.usd_per_hour:.0f}"] if options.usd_per_hour else []),
            "-" if math.isnan(chance) else f"{chance:.0%}",
            # DSC and NSD are shares: no difference is as large as 1.
            "-" if math.isnan(least) else "no number" if least >= 1 else f"{least:.4f}",
            # Without a power there is nothing to tell of any number of patients.
            "-" if math.isnan(chance) else "no number" if needed is None else str(needed),
        ]


def _explanations(options: argparse.Namespace) -> Iterator[str]:
    yield (
        f"Power: chance that a difference of {options.smallest:g} is shown by a two-sided test that takes patients and "
        f"trainings into account, at {options.alpha:g} divided by the number of tests of the question. Shows from: the "
        f"difference that is shown with a chance of {options.power:.0%}. Patients needed: for {options.smallest:g} "
        f"with that chance, never fewer than {FEWEST_DIFFERENCES} or than a signed rank test over patients can show "
        "anything of. Trainings and hours: of both sides, as long as those of this run."
    )
    yield (
        "An SD from few trainings is itself unsure, and trainings of folds that share cases are more alike than the "
        "estimate supposes: take the table as an order of magnitude."
    )
