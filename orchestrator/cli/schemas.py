"""Write the JSON schemas of all configuration files, with which editors complete and check them."""

import argparse
import json
from collections.abc import Iterator, Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from orchestrator.benchmark.presets import PresetsFile
from orchestrator.benchmark.study_file import FoldsFile, StudyFile, TablesFile
from orchestrator.cli.console import EXIT_DONE, consoles, parse, say
from orchestrator.cluster.batch.system import BatchSystem
from orchestrator.cluster.prices import Prices
from orchestrator.cluster.registry import KINDS
from orchestrator.storage.filesystem import open_storage

FOLDER = Path("docs") / "schemas"
DRAFT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each file."""
    kinds: Any = Annotated[reduce(or_, KINDS.values()), Field(discriminator="kind")]
    files: dict[str, tuple[Any, str]] = {
        "study": (StudyFile, "What is trained: study.yaml"),
        "presets": (PresetsFile.model_fields["presets"].annotation, "How much is trained: presets.yaml"),
        "folds": (FoldsFile.model_fields["datasets"].annotation, "Cases of each data set: folds.yaml"),
        "tables": (TablesFile, "Tables of a study: tables.yaml"),
        "cluster": (kinds, "Where a run takes place: a file in clusters/"),
        "batch": (BatchSystem, "How jobs are submitted, listed and cancelled: a file in clusters/batch/"),
        "prices": (Prices, "What machines cost: prices.yaml"),
    }
    for name, (content, title) in files.items():
        schema = {"$schema": DRAFT, **TypeAdapter(content).json_schema(), "title": title}
        _close(schema)
        yield f"{name}.json", json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _close(part: object) -> None:
    """Let no key in a part of a schema have another form than the one that is named."""
    # By itself, pydantic's `patternProperties` allows any other key, with anything below it.
    match part:
        case dict():
            _close(list(part.values()))
            if "patternProperties" in part:
                part["additionalProperties"] = False
        case list():
            for value in part:
                _close(value)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.schemas",
        description="Write the JSON schemas of study, presets, folds, tables, cluster, batch and price files.",
    )
    parser.add_argument("--output", default=str(FOLDER), help=f"folder for them (default: {FOLDER})")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0."""
    console, _ = consoles()
    storage = open_storage(parse(build_parser(), arguments).output)
    for name, text in schemas():
        storage.write_bytes(name, text.encode())
        say(f"{storage.location}/{name}", console=console)
    return EXIT_DONE
