"""Whatever a reader of somebody else's file throws, told as what is wrong with the file, or as no word about it."""

from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.errors import ConfigError, DataError, OrchestratorError, is_out_of_memory
from orchestrator.images.problem import Problem, SourceError

_NO_WORD = "This says nothing about the file: "


@contextmanager
def reading(name: object) -> Iterator[None]:
    """Turn what a reader throws at an odd file into a SourceError that names it.

    Readers of zip, tar, gzip, NIfTI and DICOM throw what their authors did not foresee as well: NotImplementedError,
    struct.error, RecursionError, UnicodeDecodeError, RuntimeError. Errors of ours pass, and so do those that say
    nothing about the file and may be tried again: memory that is short, disks and networks.
    """
    try:
        yield
    except (OrchestratorError, OSError, ImportError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise SourceError.of(
            name,
            found=f"what its reader cannot read ({_in_short(error)})",
            expected="a readable file of this kind",
            advice="Get it again from its owner; if it stays like this, write it anew with another tool.",
        ) from error


@contextmanager
def collecting(problems: list[Problem], name: object) -> Iterator[None]:
    """Append what goes wrong inside with a file to `problems` and go on after the block, so that all is told at once.

    Only a ConfigError passes: it is a mistake of the caller.
    """
    try:
        with reading(name):
            yield
    except ConfigError:
        raise
    except Exception as error:
        problems.append(_problem(error, name=str(name)))


def _problem(error: Exception, *, name: str) -> Problem:
    if isinstance(error, SourceError):
        return error.problem
    found, expected = f"no way to read it ({_in_short(error)})", "a file that can be read"
    if is_out_of_memory(error):
        advice = f"{_NO_WORD}memory was short. Look again with less at a time or with more memory."
    elif isinstance(error, DataError):
        advice = "Get it again from its owner; if it stays like this, write it anew with another tool."
    else:
        advice = f"{_NO_WORD}mend what is named, and look again."
    return Problem(path=name, found=found, expected=expected, advice=advice)


def _in_short(error: Exception) -> str:
    """Return an error in one line; ITK's reason is in the last of many."""
    lines = str(error).strip().splitlines() or [""]
    words = lines[-1].strip()[:300]
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
