"""A table of a report as it is shown: its columns and cells once, and the same for readers of Markdown and LaTeX."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass

from orchestrator.report.texts.escaping import escaped, literal, table_lines


@dataclass(frozen=True, slots=True)
class Column:
    """A column, with what is the same in all of its cells."""

    title: str
    _: KW_ONLY
    is_number: bool = False
    """Whether its cells are compared digit by digit."""
    names_row: bool = False
    """Whether its cells say what a row is of."""
    on_screens_only: bool = False
    """Whether paper is too narrow for it."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What stands in a place of a table."""

    text: str
    _: KW_ONLY
    hint: str = ""
    """What the text rests on: seen by hovering over it."""
    is_sentence: bool = False
    """Whether it may be broken into lines."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PageTable:
    """A table of a page."""

    title: str
    label: str
    """By which a paper refers to it."""
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str
    """What its numbers are, in sentences."""
    notes: tuple[str, ...]
    """What must be said wherever it stands."""

    @staticmethod
    def of(
        title: str,
        *,
        label: str,
        columns: Iterable[str | Column],
        rows: Iterable[Iterable[str | int | Cell]],
        caption: str = "",
        notes: Sequence[str] = (),
    ) -> "PageTable":
        """Return a table of columns and cells of which most have nothing but a text."""
        return PageTable(
            title=title,
            label=label,
            columns=tuple(one if isinstance(one, Column) else Column(one) for one in columns),
            rows=tuple(tuple(one if isinstance(one, Cell) else Cell(str(one)) for one in row) for row in rows),
            caption=caption,
            notes=tuple(notes),
        )

    def to_markdown(self) -> str:
        """Return its lines; title, caption and notes are the page's to say."""
        titles, rows = [column.title for column in self.columns], ([cell.text for cell in row] for row in self.rows)
        return "\n".join(table_lines(titles, rows, as_cell=literal))

    def to_latex(self) -> str:
        """Return a float with its notes below it."""
        shown = [place for place, column in enumerate(self.columns) if not column.on_screens_only]
        end = "" if self.title.endswith((".", "?", "!")) else "."
        lines = [
            r"\begin{table}",
            r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{escaped(f'{self.title}{end} {self.caption}')}}}",
            rf"\label{{tab:{self.label}}}",
            *booktabs(
                [self.columns[place].title for place in shown],
                [[[row[place].text for place in shown] for row in self.rows]],
                notes=self.notes,
            ),
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"


def booktabs(
    titles: Sequence[str], blocks: Iterable[Iterable[Iterable[str]]], *, notes: Iterable[str]
) -> Iterator[str]:
    """Yield the lines of a tabular with a rule before each block of rows, and of the notes below it."""
    yield rf"\begin{{tabular}}{{{'l' * len(titles)}}}"
    yield r"\toprule"
    yield _row(titles)
    for block in blocks:
        yield r"\midrule"
        yield from map(_row, block)
    yield r"\bottomrule"
    yield r"\end{tabular}"
    yield from (rf"\par\footnotesize {escaped(note)}" for note in notes)


def _row(cells: Iterable[str]) -> str:
    return " & ".join(map(escaped, cells)) + r" \\"
