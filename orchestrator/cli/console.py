"""What all commands share: how they read their options, show something, and end."""

import argparse
import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO, cast

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from orchestrator.errors import ConfigError, DataError, OrchestratorError

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

_WIDTH, _HEIGHT = 80, 25
EXIT_DONE, EXIT_NOT_DONE, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


class _GoingOn:
    """A stream whose reader may go away (`| head`), whose disk may be full, or that knows few characters."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.is_cut = False
        """Whether a reader who is still there, such as a file, lacks some of it."""

    def write(self, text: str) -> int:
        """Write what can be written."""
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            # What the error names may be "charmap", which is of no table.
            return self.write(text.encode(self._stream.encoding, "replace").decode(self._stream.encoding))
        except OSError as error:
            self._write_nowhere(error)
            return len(text)

    def flush(self) -> None:
        """Hand on what was written."""
        try:
            self._stream.flush()
        except OSError as error:
            self._write_nowhere(error)

    def _write_nowhere(self, error: OSError) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        if error.errno == errno.EPIPE:
            return
        self.is_cut = True
        if self._stream is not sys.stderr:
            with suppress(OSError):
                print(f"{self._stream.name}: {error.strerror}; the rest is not shown", file=sys.stderr)  # noqa: T201

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def consoles() -> tuple[Console, Console]:
    """Return the consoles on the standard output and on that of errors; neither raises for what is wrong with those."""
    _open_what_is_closed()
    output, errors = (
        Console(file=cast("TextIO", _GoingOn(stream)), highlight=False, emoji=False)
        for stream in (sys.stdout, sys.stderr)
    )
    for console in (output, errors):
        # Terminals that do not know their size say 0.
        console.width, console.height = console.width or _WIDTH, console.height or _HEIGHT
    return output, errors


def _open_what_is_closed() -> None:
    """Let standard streams that are closed (`>&-`, as of some schedulers) lead nowhere.

    The next files that are opened would get their numbers, and with them what is written to the standard output.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, number)
            if nowhere != number:
                os.close(nowhere)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def is_live(console: Console) -> bool:
    """Whether a console can redraw what it shows; an Emacs shell, or a terminal of the kind `dumb`, cannot."""
    return console.is_terminal and not console.is_dumb_terminal


@contextmanager
def counting(console: Console, *columns: "ProgressColumn") -> Iterator[Callable[[int, int], None]]:
    """Context with what is told how many cases of how many are done; a terminal shows it as a bar."""
    from rich.progress import Progress

    with Progress(*columns, console=console, disable=not is_live(console), transient=True) as progress:
        bar = progress.add_task("cases", total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


def command_parser(name: str, description: str) -> argparse.ArgumentParser:
    """Return the parser of a command, whose help looks like that of the others."""
    prog, epilog = f"orchestrator {name}", "Exit code 130: interrupted."
    return argparse.ArgumentParser(prog=prog, description=description, epilog=epilog)


def add_run(parser: argparse.ArgumentParser) -> None:
    """Let a command be told its run, as `output`: by the option that started it, or by itself."""
    place = parser.add_mutually_exclusive_group(required=True)
    # Where the word is missing nothing is set, or it would take back what the option says.
    place.add_argument(
        "output", nargs="?", default=argparse.SUPPRESS, metavar="RUN", help="folder or bucket of the run"
    )
    place.add_argument("--output", metavar="RUN", help="the same")


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of a command line; an empty one, as of a shell variable that is not set, ends the command."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    for before, word in zip(["", *words], words, strict=False):
        option, is_given, value = word.partition("=") if word.startswith("--") else (before, "=", word)
        if is_given and not value.strip():
            parser.exit(2, f"error: {option or 'the command line'}: found an empty value; leave it out or name one\n")
    return parser.parse_args(words)


def run_command(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    work: Callable[[argparse.Namespace, Console, Console], int],
    *,
    bad_input: tuple[type[Exception], ...] = (ConfigError, DataError),
    failed: tuple[type[Exception], ...] = (OrchestratorError,),
    interrupted: str = "Interrupted.",
) -> int:
    """Do the work of a command; returns its exit code, with one line for an error of ours or Ctrl-C.

    The work is given the options and the consoles on the standard output and on that of errors. What is done is not
    done where its output could not be written: a script would take half a file for a whole one.
    """
    console, errors = consoles()
    options = parse(parser, arguments)
    try:
        exit_code = work(options, console, errors)
    except bad_input as error:
        say(f"error: {error}", console=errors)
        return EXIT_USAGE
    except failed as error:
        say(f"error: {error}", console=errors)
        return EXIT_NOT_DONE
    except KeyboardInterrupt:
        say(interrupted, console=errors)
        return EXIT_INTERRUPTED
    is_cut = isinstance(console.file, _GoingOn) and console.file.is_cut
    return EXIT_NOT_DONE if exit_code == EXIT_DONE and is_cut else exit_code


def say(line: str, *, console: Console) -> None:
    """Print a line as it is, however long."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_whole(table: Table, *, console: Console) -> None:
    """Print a table as wide as it is, also in a pipe or a narrow window: names that are cut off are no names."""
    width = Measurement.get(console, console.options.update(max_width=1000), table).maximum
    Console(file=console.file, width=width, emoji=False).print(table)
