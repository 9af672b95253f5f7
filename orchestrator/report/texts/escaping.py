"""Texts as LaTeX and Markdown show them."""

from collections.abc import Mapping

_LATEX: Mapping[str, str] = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "†": r"$\dagger$", "<": r"$<$", ">": r"$>$",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "≤": r"$\leq$", "≥": r"$\geq$", "\u00d7": r"$\times$",
    "µ": r"\textmu{}", "\n": " ", "[": "{[}", "]": "{]}",
}  # fmt: skip


def escaped(text: str) -> str:
    """Return a text as LaTeX shows it; a bracket at the start of a line would be an option of the line before."""
    return "".join(_LATEX.get(character, character) for character in text)


def in_line(text: object) -> str:
    """Return a text as one line of Markdown, in which nothing is markup of HTML."""
    return " ".join(str(text).replace("&", "&amp;").replace("<", "&lt;").split())


def in_cell(text: object) -> str:
    """Return a text for a cell of a Markdown table."""
    return in_line(text).replace("\\", "\\\\").replace("|", "\\|")
