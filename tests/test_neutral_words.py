"""No study is built into the code: the words of the one that is shipped stand where it is data, and nowhere else."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORDS = re.compile(
    r"covid|corona(?!l\b)|mosmed|structseg|nsclc|radiopaedia|decathlon|\bmsd\b|lung|infection|effusion|\bT[123]-|[28]0-[28]0",
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
