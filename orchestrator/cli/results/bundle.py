"""Seal what the tables of a run rest on in one zip, or check such a zip without the run."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from orchestrator.api import request_of_run
from orchestrator.cli.console import EXIT_DONE, EXIT_NOT_DONE, command_parser, run_command, say
from orchestrator.configuration import counted
from orchestrator.errors import ConfigError
from orchestrator.storage.filesystem import open_storage


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "bundle",
        "Write a zip with scores, tables, report, study, splits, versions and digests of a run, as an RO-Crate; equal "
        "runs give equal bytes. No images, paths or machines are in it. With --verify: calculate all tables of such a "
        "zip anew from its scores, without run and network, and name every byte, row, cell or file that is another. "
        "Exit code 0: written, or whole; 1: it was changed, or cannot be written; 2: there is no run with scores, or "
        "no bundle.",
    )
    add = parser.add_argument
    add("file", type=Path, help="the zip")
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--output", help="folder or bucket of the run that is sealed")
    mode.add_argument("--verify", action="store_true", help="check the zip instead of writing it")
    add("--study", type=Path, help="what the run trains (default: the file with which it was started)")
    add("--license", default="", help="address of the licence under which the bundle is handed on")
    add("--sha256", default="", help="with --verify: digest of the zip as it was published")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code that its help promises."""
    return run_command(build_parser(), arguments, _work)


def _work(options: argparse.Namespace, console: Console, _errors: Console) -> int:
    return _verify(options, console=console) if options.verify else _write(options, console=console)


def _write(options: argparse.Namespace, *, console: Console) -> int:
    from orchestrator.bundle.seal import write_bundle

    if options.license and not options.license.startswith(("https://", "http://")):
        raise ConfigError(f"--license {options.license}: expected the address of a licence, https://...")
    storage = open_storage(options.output)
    request = request_of_run(storage, study=options.study)
    made = write_bundle(request, storage, target=options.file, license_url=options.license)
    say(
        f"{options.file}: {counted(made.num_files, 'file')}, {made.num_bytes / 2**20:.1f} MiB\nSHA-256 {made.sha256}",
        console=console,
    )
    return EXIT_DONE


def _verify(options: argparse.Namespace, *, console: Console) -> int:
    from orchestrator.bundle.seal import check_bundle

    found = check_bundle(options.file)
    problems = list(found.problems)
    if options.sha256 and options.sha256.strip().lower() != found.sha256:
        problems.append(f"the zip has another SHA-256 than {options.sha256}: it is not the one that was published")
    for line in [*problems, *found.notes]:
        say(line, console=console)
    whole = "changed" if problems else "whole"
    say(
        f"{options.file}: {whole}; {counted(found.num_files, 'file')}, {found.num_compared} of them calculated anew\n"
        f"SHA-256 {found.sha256}",
        console=console,
    )
    return EXIT_NOT_DONE if problems else EXIT_DONE
