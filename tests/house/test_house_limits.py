"""Files and functions that can be read in one sitting, in rooms that can be taken in at a glance."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).parents[2]
FILES = [path for room in ("orchestrator", "kernels", "tests", "bench") for path in (ROOT / room).rglob("*.py")]
CODE = [path for path in FILES if path.relative_to(ROOT).parts[0] in {"orchestrator", "kernels"}]
HOUSE = [path for path in CODE if path.relative_to(ROOT).parts[0] == "orchestrator"]
"""Without the kernels: a loop over voxels is one piece."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A function of the house."""

    length: int
    """Lines, from its name to its end."""
    num_code: int
    """Those of them that hold code: neither what explains it nor comments nor nothing."""
    num_parameters: int


def functions_of(path: Path) -> Iterator[tuple[str, Measured]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = range(node.lineno, node.end_lineno + 1)
            first = node.body[0]
            is_explained = ast.get_docstring(node, clean=False) is not None
            explained = range(first.lineno, first.end_lineno + 1) if is_explained else ()
            texts = [lines[number - 1].strip() for number in body if number not in explained]
            measured = Measured(
                length=len(body),
                num_code=sum(bool(text) and not text.startswith("#") for text in texts),
                num_parameters=num_parameters(node),
            )
            yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", measured


def num_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    given = function.args
    names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in names if name not in {"self", "cls"}])


def test_no_file_is_longer_than_400_lines_and_half_of_them_not_than_120():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert len(lengths) > 400
    assert {str(path.relative_to(ROOT)): length for path, length in lengths.items() if length > 400} == {}
    assert median(lengths[path] for path in CODE) <= 120


def test_no_function_is_longer_than_50_lines_and_nine_of_ten_have_18_of_code():
    functions = dict(one for path in HOUSE for one in functions_of(path))
    assert len(functions) > 2000
    assert {name: one.length for name, one in functions.items() if one.length > 50} == {}
    assert quantiles([one.num_code for one in functions.values()], n=10)[-1] <= 18


def test_no_function_has_more_than_6_parameters():
    functions = dict(one for path in HOUSE for one in functions_of(path))
    assert {name: one.num_parameters for name, one in functions.items() if one.num_parameters > 6} == {}


def test_hardly_anything_has_just_any_type():
    words = {path: len(re.findall(r"\bAny\b", path.read_text(encoding="utf-8"))) for path in CODE}
    assert sum(words.values()) < 100, Counter(words).most_common(20)


def test_no_room_has_more_than_16_files():
    rooms = Counter(str(path.parent.relative_to(ROOT)) for path in FILES)
    assert len(rooms) > 50
    assert {room: number for room, number in rooms.items() if number > 16} == {}
