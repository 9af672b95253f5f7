"""No study is built into the code: the words of the one that is shipped stand where it is data, and nowhere else."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORDS = re.compile(
    r"covid|corona(?!l\b)|mosmed|structseg|nsclc|radiopaedia|decathlon|\bmsd\b|lung|infection|effusion|\bT[123]-|[28]0-[28]0"
    r"|task-1|benchmark file|\bthe (?:benchmark|paper)\b",
    re.IGNORECASE,
)
THEIR_OWN = ("orchestrator/sources/layouts/", "orchestrator/phantoms/")
"""A file for each download: how its owner ships it, and how phantoms of it are written."""


def test_no_study_is_built_into_the_code():
    files = [
        path
        for room in ("orchestrator", "kernels")
        for path in sorted((ROOT / room).rglob("*.py"))
        if not path.relative_to(ROOT).as_posix().startswith(THEIR_OWN)
    ]
    assert len(files) > 200
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if WORDS.search(line)
    ]
    assert found == []


PRIVATE = {
    "_failing_aloud", "_hold", "_under", "course", "equip", "feeding", "found_on", "givingway", "going_on_without",
    "growth", "levelling", "life", "look_of", "machines", "maystart", "need_of", "outlook", "plan_donor",
    "rentedmachines", "scouts", "slice_s", "victim", "victims", "way_s", "ways", "ways_s", "whereabouts", "workplace",
}  # fmt: skip
"""Names that only the first owners understood, in lower case; the terms of nnU-Net, Ray and scheduling are said."""


def test_what_is_defined_has_a_name_that_newcomers_know():
    names = {
        (path.name, node.name.lower())
        for room in ("orchestrator", "bench")
        for path in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
    }
    names |= {(path.name, path.stem) for path in (ROOT / "orchestrator").rglob("*")}
    assert len(names) > 2000
    assert {name for name in names if name[1] in PRIVATE} == set()
