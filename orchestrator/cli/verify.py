"""Compare the files of a run with what was written, and the downloads with what was read of them."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from orchestrator.api import load_study
from orchestrator.cli.console import (
    EXIT_DONE,
    EXIT_NOT_DONE,
    add_run,
    command_parser,
    run_command,
    say,
)
from orchestrator.driver.changed_data import compare, parts_of
from orchestrator.driver.claim import place_of_study
from orchestrator.errors import ConfigError, IntegrityError, OrchestratorError
from orchestrator.patches.record import PatchRecord
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.interface import Storage


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "verify",
        "Compare every patch file of a run with its record, and with --data every file of the downloads "
        "with the digest of what was read of it. Exit code 0: all are whole and unchanged; 1: some are not, and each "
        "is named; 2: there is nothing to compare. A damaged file that is removed is made again by the next run.",
    )
    add_run(parser)
    parser.add_argument("--data", help="folder or bucket with the downloads: compare them instead of the patches")
    parser.add_argument(
        "--study", type=Path, help="with --data: what it trains (default: the file with which it was started)"
    )
    parser.add_argument("--remove", action="store_true", help="remove patch files that are damaged")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code that its help promises, 130 after Ctrl-C."""
    return run_command(build_parser(), arguments, verify, bad_input=(OrchestratorError,))


def verify(options: argparse.Namespace, console: Console, _errors: Console) -> int:
    """Compare what the command line names."""
    storage = open_storage(options.output)
    if options.data is not None:
        is_whole = verify_data(storage, data=options.data, study=options.study, console=console)
    else:
        is_whole = verify_patches(storage, remove=options.remove, console=console)
    return EXIT_DONE if is_whole else EXIT_NOT_DONE


def verify_patches(storage: Storage, *, remove: bool, console: Console) -> bool:
    """Say which patch files are not what was written; raises ConfigError if there are none."""
    keys = run_paths.own_keys(storage, run_paths.PATCHES)
    if not keys:
        raise ConfigError(
            f"{storage.location}: no patch files; expected the --output of a run that has preprocessed cases"
        )
    num_damaged = 0
    for key, error in damages(storage, keys):
        num_damaged += 1
        say(f"damaged: {error}", console=console)
        if remove:
            storage.delete(key)
    say(f"{len(keys) - num_damaged} of {len(keys)} patch files are whole", console=console)
    return num_damaged == 0


def verify_data(storage: Storage, *, data: str, study: Path | None, console: Console) -> bool:
    """Say which files of the downloads are no longer what was read; raises ConfigError if nothing was read."""
    parts = parts_of(storage)
    if not parts:
        raise ConfigError(f"{storage.location}: no cases; expected the --output of a run that has read downloads")
    datasets = {dataset.name: dataset for dataset in load_study(study or place_of_study(storage), data=data).datasets}
    found = compare(parts, data=data, datasets=datasets, thorough=True)
    for one in found.changed:
        files = ", ".join(one.files)
        line = f"changed: {data}: {files}: {one.part.name} would be made of another content now"
        say(line, console=console)
    for part in found.gone:
        say(f"gone: {data}: nothing is found there for {part.name}", console=console)
    num_same = len(parts) - len(found.changed) - len(found.gone)
    say(f"{num_same} of {len(parts)} images and label maps are of the downloads as they are", console=console)
    return num_same == len(parts)


def damages(storage: Storage, keys: Sequence[str]) -> Iterator[tuple[str, IntegrityError]]:
    """Yield the files that are not what was written, and what is wrong with each."""
    for key in keys:
        try:
            PatchRecord.of_key(storage, key).verify(storage, key)
        except IntegrityError as error:
            yield key, error
