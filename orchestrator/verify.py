"""Compare every patch file of a run with what was written: size, digest, and the checksum of each chunk."""

import argparse
import sys
from collections.abc import Iterator, Sequence

from orchestrator.console import consoles, parse
from orchestrator.errors import IntegrityError, OrchestratorError
from orchestrator.patches.manifest import PatchManifest, PatchRecord
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.interface import Storage

EXIT_WHOLE, EXIT_DAMAGED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.verify",
        description="Compare every patch file of a run with its record. Exit code 0: all are whole; 1: some are not, "
        "and each is named; 2: there are none. A damaged file that is removed is made again by the next run.",
    )
    parser.add_argument("--output", required=True, help="folder or s3:// prefix of the run")
    parser.add_argument("--remove", action="store_true", help="remove what is damaged")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code that its help promises, 130 after Ctrl-C."""
    console, errors = consoles()
    options = parse(build_parser(), arguments)
    try:
        storage = open_storage(options.output)
        keys = run_paths.own_keys(storage, run_paths.PATCHES)
        if not keys:
            message = f"{storage.location}: no patch files; expected the --output of a run that has preprocessed cases"
            errors.print(f"error: {message}", markup=False, soft_wrap=True)
            return EXIT_USAGE
        num_damaged = 0
        for key, error in damages(storage, keys):
            num_damaged += 1
            console.print(f"damaged: {error}", markup=False, soft_wrap=True)
            if options.remove:
                storage.delete(key)
    except OrchestratorError as error:
        errors.print(f"error: {error}", markup=False, soft_wrap=True)
        return EXIT_USAGE
    except KeyboardInterrupt:
        errors.print("Interrupted.")
        return EXIT_INTERRUPTED
    console.print(f"{len(keys) - num_damaged} of {len(keys)} patch files are whole")
    return EXIT_DAMAGED if num_damaged else EXIT_WHOLE


def damages(storage: Storage, keys: Sequence[str]) -> Iterator[tuple[str, IntegrityError]]:
    """Yield the files that are not what was written, and what is wrong with each."""
    for key in keys:
        try:
            PatchManifest(records={key: _record(storage, key)}).verify(storage)
        except IntegrityError as error:
            yield key, error


def _record(storage: Storage, key: str) -> PatchRecord:
    record_key = run_paths.record_of_patches(key)
    if not storage.exists(record_key):
        raise IntegrityError(f"{storage.location}/{key}: without its record; write the patches again")
    try:
        return PatchRecord.from_bytes(storage.read_bytes(record_key))
    except IntegrityError as error:
        raise IntegrityError(f"{storage.location}/{record_key}: {error}; write the patches again") from error


if __name__ == "__main__":
    sys.exit(main())
