"""Let nnUNetv2_train find our trainer."""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from orchestrator.cli.console import EXIT_DONE, command_parser, run_command, say
from orchestrator.training.dropin.trainer_file import CONTENT, TRAINER, TrainerFile


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "install-trainer",
        f"Write a small file into the installed nnU-Net by which nnUNetv2_train finds -tr {TRAINER}. nnU-Net is not "
        "changed otherwise, and a file that is there already is left as it is. Exit code 0: it is as asked; 2: nnU-Net "
        "is not found, or its folder cannot be written to.",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--remove", action="store_true", help="remove the file again")
    what.add_argument("--show", action="store_true", help="print the file and write nothing")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 where nnU-Net is not found or its folder cannot be written to."""
    return run_command(build_parser(), arguments, install)


def install(options: argparse.Namespace, console: Console, _errors: Console) -> int:
    """Write, remove or show the file."""
    if options.show:
        sys.stdout.write(CONTENT)
        return EXIT_DONE
    file = TrainerFile.of_nnunet()
    if options.remove:
        told = f"{file.path}: removed" if file.remove() else f"{file.path}: not there, nothing to remove"
    else:
        told = f"{file.path}: {'written' if file.write() else 'there already'}"
        told += f"\nTrain with: nnUNetv2_train DATASET CONFIGURATION FOLD -tr {TRAINER}"
    say(told, console=console)
    return EXIT_DONE
