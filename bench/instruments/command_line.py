"""The command lines of the benchmarks: each shows its module's text, is called as it says, and is checked first."""

import argparse
from pathlib import Path


def command_line(module: str, *, description: str | None) -> argparse.ArgumentParser:
    """Return a parser for `python -m bench.<module>` that shows the description as it is written."""
    return argparse.ArgumentParser(
        prog=f"python -m bench.{module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def positive_integer(text: str) -> int:
    """Return a whole number of at least 1; for `type` of an option."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number of at least 1")
    return number


def existing_folder(text: str) -> Path:
    """Return a folder that exists; for `type` of an option."""
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: no such folder")
    return path
