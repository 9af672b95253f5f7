"""Texts as LaTeX and Markdown show them."""

import re
from collections.abc import Iterable, Mapping

_LATEX: Mapping[str, str] = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "†": r"$\dagger$", "<": r"$<$", ">": r"$>$",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "≤": r"$\leq$", "≥": r"$\geq$", "\u00d7": r"$\times$",
    "µ": r"\textmu{}", "\n": " ", "[": "{[}", "]": "{]}",
}  # fmt: skip
_ENTITY = re.compile(r"&(?=#?\w+;)")
"""What would begin a character reference; any other `&` is itself in Markdown."""


def escaped(text: str) -> str:
    """Return a text as LaTeX shows it; a bracket at the start of a line would be an option of the line before."""
    return "".join(_LATEX.get(character, character) for character in text)


def in_line(text: object) -> str:
    """Return a text as one line of Markdown, in which nothing is markup of HTML."""
    return " ".join(_ENTITY.sub("&amp;", str(text)).replace("<", "&lt;").split())


def in_cell(text: object) -> str:
    """Return a text for a cell of a Markdown table."""
    return in_line(text).replace("\\", "\\\\").replace("|", "\\|")


def table_line(cells: Iterable[object]) -> str:
    """Return a line of a Markdown table of texts as they are."""
    return f"| {' | '.join(map(in_cell, cells))} |"
