"""Turn what nnU-Net has preprocessed into patch files, or back."""

import argparse
from collections.abc import Sequence

from rich.console import Console

from orchestrator.cli.console import (
    EXIT_DONE,
    EXIT_NOT_DONE,
    command_parser,
    counting,
    run_command,
    say,
)
from orchestrator.configuration import counted
from orchestrator.errors import ConfigError, OrchestratorError


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "convert-preprocessed",
        "Write the preprocessed cases of a data set of nnU-Net's as patch files, from which batches take less CPU, or "
        "patch files as nnU-Net's own. Each case is read back and compared; one that is there already is left as it "
        "is, so that the same command goes on after an interruption. One that cannot be converted does not keep the "
        "others from it. Nothing is removed. Exit code 0: all cases are converted; 1: one cannot be; 2: the command "
        "line is wrong.",
    )
    add = parser.add_argument
    add("dataset", help="its name or number, as for nnUNetv2_train")
    add("-c", "--configuration", nargs="+", default=[], help="such as 3d_fullres (default: all that are preprocessed)")
    add("-p", "--plans", default="nnUNetPlans", help="name of the plans (default: nnUNetPlans)")
    add("--to", choices=("patches", "blosc2"), default="patches", help="what is written (default: patches)")
    add(
        "--lossless",
        action="store_true",
        help="keep every bit of the intensities; without it those in standard deviations are rounded by at most 2^-10",
    )
    add("--threads", type=int, default=2, help="cases at a time (default: 2)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 if all is converted, 1 if not, 2 for bad input, 130 after Ctrl-C."""
    return run_command(
        build_parser(),
        arguments,
        convert,
        bad_input=(ConfigError,),
        failed=(OrchestratorError, OSError),
        interrupted="Interrupted; what is converted stays.",
    )


def convert(options: argparse.Namespace, console: Console, errors: Console) -> int:
    """Convert what the command line names."""
    from orchestrator.training.dropin.converting import convert_all, find_conversions

    if options.threads < 1:
        raise ConfigError(f"--threads {options.threads}: expected at least 1")
    conversions = find_conversions(
        options.dataset,
        configurations=options.configuration,
        plans_name=options.plans,
        target=options.to,
        lossless=options.lossless,
    )
    with counting(errors) as on_case:
        converted = convert_all(
            conversions,
            num_threads=options.threads,
            on_case=on_case,
        )
    for conversion in conversions:
        found = converted[conversion.configuration]
        kind = f"{conversion.precision} patch files" if options.to == "patches" else "files of nnU-Net's"
        there = f", {found.num_there} were there already" if found.num_there else ""
        failed = f", {len(found.failed)} cannot be converted" if found.failed else ""
        say(
            f"{conversion.configuration}: {counted(found.num_written, 'case')} as {kind}{there}{failed}",
            console=console,
        )
        for line in found.failed:
            say(f"error: {line}", console=errors)
    return EXIT_NOT_DONE if any(found.failed for found in converted.values()) else EXIT_DONE
