"""Logs that others write: what is new of them, line by line, and their last words."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


class LogLines:
    """Cuts the log into lines; after a new connection, which begins at the log's start, skips what was shown."""

    def __init__(self, *, show: Callable[[str], None]) -> None:
        self._show = show
        self.num_shown = 0
        self.rewind()

    def rewind(self) -> None:
        """Take note that the log begins anew."""
        self._num_seen = 0
        self._rest = ""

    def add(self, text: str) -> None:
        """Take the next piece of the log."""
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            self._num_seen += 1
            if self._num_seen > self.num_shown:
                self.num_shown = self._num_seen
                self._show(line)

    def finish(self) -> None:
        """Show what stands after the last line break."""
        if self._rest:
            self.add("\n")


class GrowingFile:
    """A log that another process goes on writing to, or begins anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._num_read = 0

    def new_text(self) -> str:
        """Return the whole lines that have been written since."""
        with suppress(FileNotFoundError), self._path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < self._num_read:  # it was begun anew
                self._num_read = 0
            file.seek(self._num_read)
            text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._num_read += len(whole)
            return whole.decode(errors="replace")
        return ""


def last_words(log: Path, *, num_lines: int) -> str:
    """Return the last lines of a log as one."""
    told = log.read_text(errors="replace").strip().splitlines()[-num_lines:]
    return " / ".join(told) or "it says nothing"
