"""Take models of others in: zips of nnU-Net's or of this project, looked at before they are put anywhere."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from orchestrator.cli.console import EXIT_DONE, command_parser, run_command, say
from orchestrator.inference.importing import import_models


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "import",
        "Unpack zips of trained models (nnUNetv2_export_model_to_zip, or `export`): no file outside, no more bytes "
        "than a model has, and nothing in them is run. Exit code 0: all are taken in; 2: a zip is not what it should "
        "be, and refused whole.",
    )
    parser.add_argument("zip", type=Path, nargs="+", help="zip of trained models")
    parser.add_argument("--output", type=Path, required=True, help="folder of models")
    parser.add_argument("--checkpoint", metavar="NAME", help="weights of the models (default: checkpoint_final.pth)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 if all are taken in, 2 with one line for the first that is refused."""
    return run_command(build_parser(), arguments, _import)


def _import(options: argparse.Namespace, console: Console, errors: Console) -> int:
    for archive in options.zip:
        for model in import_models(archive, options.output, checkpoint=options.checkpoint):
            for note in model.notes:
                say(f"note: {note}", console=errors)
            say(f"{model.folder}: {model.configuration}, fold {', '.join(model.folds)}", console=console)
    return EXIT_DONE
