"""Hand out the models of a run: zips that nnU-Net installs and runs, each with a card, and an index."""

import argparse
from collections.abc import Sequence

from rich.console import Console

from orchestrator.cli.console import EXIT_DONE, command_parser, run_command, say
from orchestrator.configuration import counted
from orchestrator.inference.exporting import FIRST_NUMBER, ExportedModel, default_output, export_models


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "export",
        "Write each trained model as a zip for nnUNetv2_install_pretrained_model_from_zip, with a card of what it is "
        "and how well it does, and index.json with the SHA-256 of all. The same models give the same bytes. No names "
        "of cases or folders are in them. Exit code 0: everything is written; 2: there is no such run or training.",
    )
    add = parser.add_argument
    add("run", help="output location of a run")
    add("--output", help="folder of the zips (default: models/ of the run)")
    add("--training", action="append", default=[], help="which training; may be repeated (default: all that are done)")
    add(
        "--first-number",
        type=int,
        default=FIRST_NUMBER,
        help=f"number of the first data set in nnU-Net's naming (default: {FIRST_NUMBER}); each training has its own",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 if everything is written, 1 or 2 with one line if not, 130 after Ctrl-C."""
    return run_command(build_parser(), arguments, _export)


def _export(options: argparse.Namespace, console: Console, _errors: Console) -> int:
    output = options.output or default_output(options.run)

    def told(model: ExportedModel) -> None:
        say(
            f"{model.file}: {model.dataset}, {model.num_bytes / 2**20:.1f} MiB, SHA-256 {model.sha256}", console=console
        )

    made = export_models(
        options.run, output, trainings=options.training, first_number=options.first_number, on_model=told
    )
    say(f"{counted(len(made), 'model')}: {output}", console=console)
    return EXIT_DONE
