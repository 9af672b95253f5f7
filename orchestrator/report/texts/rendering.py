"""A page as HTML that needs nothing else (no server, no request, no script), as Markdown, and its tables as LaTeX."""

import re
from pathlib import Path

from orchestrator.report import figures
from orchestrator.report.live.state import REFRESH_S
from orchestrator.report.page import Page
from orchestrator.report.texts import page_tables
from orchestrator.report.texts.escaping import in_line
from orchestrator.report.texts.numbers import as_percent, cost_text, hours_text
from orchestrator.statistics import intervals, ranking, sequential

_TEMPLATES = Path(__file__).parents[1] / "templates"
_HEAD_OF_LATEX = r"""% Tables of a report. In a document: \usepackage[T1]{fontenc} \usepackage{booktabs} \input{tables}
% Names in other scripts than Latin need LuaLaTeX or XeLaTeX.
"""
_CONSTANTS = {
    "num_resamples": intervals.NUM_RESAMPLES,
    "fewest_clusters": intervals.FEWEST_CLUSTERS,
    "num_rank_resamples": ranking.NUM_RESAMPLES,
    "least_chance": sequential.LEAST_CHANCE,
    "refresh_s": REFRESH_S,
}


def to_html(page: Page) -> str:
    """Return a page as HTML; every text in it is escaped."""
    return _rendered("report.html.j2", page, has_markup=True)


def to_markdown(page: Page) -> str:
    """Return what a page says as Markdown, without its figures."""
    text = _rendered("report.md.j2", page, has_markup=False)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def latex_tables(page: Page) -> str:
    """Return the tables of a page for a paper: booktabs, each a float of its own."""
    return "\n".join([_HEAD_OF_LATEX, *(table.to_latex() for table in page_tables.tables_of(page))])


def methods_text(page: Page) -> str:
    """Return the paragraph on methods, and below it what its words mean, as Markdown."""
    words = "\n".join(f"- **{in_line(word)}**: {in_line(meaning)}" for word, meaning in page.definitions)
    return f"{in_line(page.methods)}\n\n{words}\n"


def _rendered(template: str, page: Page, *, has_markup: bool) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=has_markup, undefined=StrictUndefined, trim_blocks=True
    )
    environment.globals |= {"tables": page_tables, **_CONSTANTS}
    environment.filters |= {
        "as_percent": as_percent,
        "hours": hours_text,
        "cost": cost_text,
        "line": in_line,
        # Of matplotlib, which escapes the texts in it.
        "forest": lambda answer, titles: Markup(figures.forest(answer, titles)),
        "svg": Markup,
    }
    text = environment.get_template(template).render(page=page)
    # Paths may hold bytes that are no text.
    return text.encode(errors="backslashreplace").decode()
