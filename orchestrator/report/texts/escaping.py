"""Texts as LaTeX and Markdown show them."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

_LATEX: Mapping[str, str] = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "†": r"$\dagger$", "<": r"$<$", ">": r"$>$",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "≤": r"$\leq$", "≥": r"$\geq$", "\u00d7": r"$\times$",
    "µ": r"\textmu{}", "\n": " ", "[": "{[}", "]": "{]}",
    "*": "{*}", "`": r"\textasciigrave{}",
}  # fmt: skip
_ENTITY = re.compile(r"&(?=#?\w+;)")
"""What would begin a character reference; any other `&` is itself in Markdown."""
_TAG = re.compile("<(?! )")
"""What may begin a tag of HTML."""
_MARKUP = re.compile(r"[*`~\[]|(?<![^\W_])_|_(?![^\W_])")
"""What may be markup of Markdown within a line; `_` within a word is itself."""


def escaped(text: str) -> str:
    """Return a text as LaTeX shows it; a bracket or a star at the start of a line would be of the line before."""
    return "".join(_LATEX.get(character, character) for character in text)


def in_line(text: object) -> str:
    """Return a text as one line of Markdown, in which nothing is markup of HTML."""
    return _TAG.sub("&lt;", " ".join(_ENTITY.sub("&amp;", str(text)).split()))


def in_cell(text: object) -> str:
    """Return a text for a cell of a Markdown table; it may have markup of Markdown."""
    return in_line(text).replace("\\", "\\\\").replace("|", "\\|")


def literal(text: object) -> str:
    """Return a text for a cell of a Markdown table, in which nothing is markup."""
    return _MARKUP.sub(r"\\\g<0>", in_cell(text))


def table_line(cells: Iterable[object], *, as_cell: Callable[[object], str] = in_cell) -> str:
    """Return a line of a Markdown table of texts as they are."""
    return f"| {' | '.join(map(as_cell, cells))} |"


def table_lines(
    titles: Sequence[object], rows: Iterable[Iterable[object]], *, as_cell: Callable[[object], str] = in_cell
) -> list[str]:
    """Return the lines of a Markdown table."""
    return [
        table_line(titles, as_cell=as_cell),
        f"|{'---|' * len(titles)}",
        *(table_line(row, as_cell=as_cell) for row in rows),
    ]
