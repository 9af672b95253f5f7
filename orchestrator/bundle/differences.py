"""Where a file differs from the one that is calculated anew: line and cell, or row and column."""

import io
import math
import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest

import pyarrow as pa
import pyarrow.parquet as pq

MOST_SHOWN = 20
"""Differences of one file."""
_RELATIVE = 1e-9
"""That two numbers may differ by: other versions of numpy and scipy sum in another order."""
_FIGURE = re.compile(rb"<svg.*?</svg>", re.DOTALL)
_CELLS = re.compile(r"([|&,]|</t[dh]>)")
"""What is between two cells is compared like a cell."""
_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?(?:e[-+]\d+)?)", re.ASCII)
_SHOWN = 60


def differences(name: str, found: bytes, expected: bytes, *, with_figures: bool = True) -> list[str]:
    """Return what is different in a file, a line each; nothing if only the last digits are, or how rows are packed.

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


def first_difference(ours: Sequence[object], theirs: Sequence[object]) -> int:
    """Return the index at which two sequences begin to differ; where one begins with the other, that of its end."""
    shorter = min(len(ours), len(theirs))
    return next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), shorter)


def _in_text(found: str, expected: str) -> Iterator[str]:
    """Yield the lines that differ: what two texts have in common at their ends is left out."""
    ours, theirs = found.split("\n"), expected.split("\n")
    start = first_difference(ours, theirs)
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
    for place, (cell, calculated) in enumerate(zip(ours, theirs, strict=True)):
        if cell != calculated and not _are_close(cell, calculated):
            row = f" ({wanted[:_SHOWN]}...)" if len(ours) > 1 else ""
            yield (
                f"line {number}, cell {place // 2 + 1}{row}: found {_around(cell, calculated)!r}, calculated "
                f"{_around(calculated, cell)!r}"
            )


def _around(text: str, other: str) -> str:
    """Return the part of a text around the first character that another one has otherwise."""
    start = max(0, first_difference(text, other) - _SHOWN // 2)
    part = text[start : start + _SHOWN]
    return part if text.strip() == other.strip() else part.strip()


def _are_close(cell: str, calculated: str) -> bool:
    """Whether two cells are the same text with numbers in it that differ in their last digits."""
    ours, theirs = _NUMBER.split(cell), _NUMBER.split(calculated)
    return len(ours) == len(theirs) and all(
        text == wanted or (place % 2 == 1 and _is_last_digit(text, wanted))
        for place, (text, wanted) in enumerate(zip(ours, theirs, strict=True))
    )


def _is_last_digit(text: str, wanted: str) -> bool:
    """Whether two numbers differ in their last digits: both are written as Python writes them, so none is a count."""
    found, expected = float(text), float(wanted)
    return (repr(found), repr(expected)) == (text, wanted) and math.isclose(
        found, expected, rel_tol=_RELATIVE, abs_tol=_RELATIVE
    )


def _in_rows(found: bytes, expected: bytes) -> Iterator[str]:
    wanted, wanted_codecs = _read(expected)
    try:
        table, codecs = _read(found)
    except (pa.ArrowException, OSError, ValueError) as error:
        yield f"not a Parquet file ({str(error)[:_SHOWN]})"
        return
    if table.schema.names != wanted.schema.names or table.schema.types != wanted.schema.types:
        yield f"columns {table.schema.names}; calculated {wanted.schema.names}"
        return
    if not table.schema.equals(wanted.schema, check_metadata=True):
        texts = [one.to_string(truncate_metadata=False) for one in (table.schema, wanted.schema)]
        yield f"metadata: found {_around(*texts)!r}, calculated {_around(*reversed(texts))!r}"
    if codecs != wanted_codecs:
        yield f"compressed by {', '.join(codecs)}; calculated {', '.join(wanted_codecs)}"
    if table.num_rows != wanted.num_rows:
        yield f"{table.num_rows} rows; calculated {wanted.num_rows}"
    for number, (row, calculated) in enumerate(zip(table.to_pylist(), wanted.to_pylist(), strict=False)):
        for column, value in calculated.items():
            if repr(row[column]) != repr(value):
                yield f"row {number}, {column}: found {row[column]!r}, calculated {value!r}"


def _read(content: bytes) -> tuple[pa.Table, list[str]]:
    """Return the rows of a Parquet file, and what its columns are compressed by."""
    file = pq.ParquetFile(io.BytesIO(content))
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    codecs = {group.column(number).compression for group in groups for number in range(group.num_columns)}
    return file.read(), sorted(codecs)
