"""The consoles of all commands: what cannot be shown any more does not end what is being done."""

import os
import sys
from typing import Any, TextIO, cast

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table


class _GoingOn:
    """A stream whose reader may go away (`| head`), whose disk may be full, or that knows few characters."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what can be written."""
        try:
            return self._stream.write(text)
        except UnicodeEncodeError as error:
            return self.write(text.encode(error.encoding, "replace").decode(error.encoding))
        except OSError:
            self._write_nowhere()
            return len(text)

    def flush(self) -> None:
        """Hand on what was written."""
        try:
            self._stream.flush()
        except OSError:
            self._write_nowhere()

    def _write_nowhere(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def consoles() -> tuple[Console, Console]:
    """Return the consoles on the standard output and on that of errors; neither raises for what is wrong with those."""
    output, errors = (
        Console(file=cast("TextIO", _GoingOn(stream)), highlight=False, emoji=False)
        for stream in (sys.stdout, sys.stderr)
    )
    return output, errors


def print_whole(table: Table, *, console: Console) -> None:
    """Print a table as wide as it is, also in a pipe or a narrow window: names that are cut off are no names."""
    width = Measurement.get(console, console.options.update(max_width=1000), table).maximum
    Console(file=console.file, width=width, emoji=False).print(table)
