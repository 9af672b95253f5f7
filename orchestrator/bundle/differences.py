"""Where a file differs from the one that is calculated anew: line and cell, or row and column."""

import io
import math
import re
from collections.abc import Iterator
from itertools import zip_longest

import pyarrow as pa
import pyarrow.parquet as pq

MOST_SHOWN = 20
"""Differences of one file."""
_RELATIVE = 1e-9
"""That two numbers may differ by: other versions of numpy and scipy sum in another order."""
_FIGURE = re.compile(rb"<svg.*?</svg>", re.DOTALL)
_CELLS = re.compile(r"[|&,]|</t[dh]>")
_SHOWN = 60


def differences(name: str, found: bytes, expected: bytes, *, with_figures: bool = True) -> list[str]:
    """Return what is different in a file, a line each; nothing if only the last digits are.

    Parameters
    ----------
    name
        Of the file: of its ending depends how it is read.
    found
        Its content.
    expected
        The content that was calculated.
    with_figures
        Whether the figures of a page must be the same: those of another version of matplotlib are not.
    """
    if found == expected:
        return []
    if name.endswith(".parquet"):
        lines = _in_rows(found, expected)
    else:
        if not with_figures:
            found, expected = (_FIGURE.sub(b"(figure)", content) for content in (found, expected))
        lines = _in_text(found.decode(errors="backslashreplace"), expected.decode(errors="backslashreplace"))
    shown: list[str] = []
    for line in lines:
        if len(shown) == MOST_SHOWN:
            return [*shown, f"{name}: and more"]
        shown.append(f"{name}: {line}")
    return shown


def _in_text(found: str, expected: str) -> Iterator[str]:
    """Yield the lines that differ: what two texts have in common at their ends is left out."""
    ours, theirs = found.split("\n"), expected.split("\n")
    start = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
    start = min(len(ours), len(theirs)) if start is None else start
    end = 0
    while end < min(len(ours), len(theirs)) - start and ours[-1 - end] == theirs[-1 - end]:
        end += 1
    changed = (ours[start : len(ours) - end], theirs[start : len(theirs) - end])
    for number, (line, wanted) in enumerate(zip_longest(*changed), start=start + 1):
        if line is None:
            yield f"line {number}: missing; calculated {wanted[:_SHOWN]!r}"
        elif wanted is None:
            yield f"line {number}: added; found {line[:_SHOWN]!r}"
        elif line != wanted:
            yield from _in_line(line, wanted, number=number)


def _in_line(line: str, wanted: str, *, number: int) -> Iterator[str]:
    ours, theirs = _CELLS.split(line), _CELLS.split(wanted)
    if len(ours) != len(theirs):
        yield f"line {number}: found {_around(line, wanted)!r}, calculated {_around(wanted, line)!r}"
        return
    for place, (cell, calculated) in enumerate(zip(ours, theirs, strict=True), start=1):
        if cell != calculated and not _are_close(cell, calculated):
            row = f" ({wanted[:_SHOWN]}...)" if len(ours) > 1 else ""
            yield (
                f"line {number}, cell {place}{row}: found {_around(cell, calculated)!r}, calculated "
                f"{_around(calculated, cell)!r}"
            )


def _around(text: str, other: str) -> str:
    """Return the part of a text around the first character that another one has otherwise."""
    place = next((i for i, pair in enumerate(zip(text, other, strict=False)) if pair[0] != pair[1]), 0)
    start = max(0, place - _SHOWN // 2)
    return text[start : start + _SHOWN].strip()


def _are_close(cell: str, calculated: str) -> bool:
    """Whether two cells are numbers that differ in their last digits; a name before a number in JSON is part of it."""
    *names, text = cell.rsplit(": ", 1)
    *others, wanted = calculated.rsplit(": ", 1)
    try:
        return names == others and math.isclose(float(text), float(wanted), rel_tol=_RELATIVE, abs_tol=_RELATIVE)
    except ValueError:
        return False


def _in_rows(found: bytes, expected: bytes) -> Iterator[str]:
    wanted = pq.read_table(io.BytesIO(expected))
    try:
        table = pq.read_table(io.BytesIO(found))
    except (pa.ArrowException, OSError) as error:
        yield f"not a Parquet file ({str(error)[:_SHOWN]})"
        return
    if table.schema.names != wanted.schema.names or table.schema.types != wanted.schema.types:
        yield f"columns {table.schema.names}; calculated {wanted.schema.names}"
        return
    if table.num_rows != wanted.num_rows:
        yield f"{table.num_rows} rows; calculated {wanted.num_rows}"
    for number, (row, calculated) in enumerate(zip(table.to_pylist(), wanted.to_pylist(), strict=False)):
        for column, value in calculated.items():
            if repr(row[column]) != repr(value):
                yield f"row {number}, {column}: found {row[column]!r}, calculated {value!r}"
