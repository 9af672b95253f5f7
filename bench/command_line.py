"""The command lines of the benchmarks: each shows its module's text and is called as it says there."""

import argparse


def command_line(module: str, *, description: str | None) -> argparse.ArgumentParser:
    """Return a parser for `python -m bench.<module>` that shows the description as it is written."""
    return argparse.ArgumentParser(
        prog=f"python -m bench.{module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
