"""Whatever is imported stands in pyproject.toml: a library that only comes along with another may leave with it."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
OWN = ("orchestrator", "kernels")
NOT_OF_USERS = ("test", "bench")


def imported_names() -> dict[str, str]:
    """Return the packages of others that the house imports, each with a file that does."""
    found: dict[str, str] = {}
    for path in (path for room in OWN for path in sorted((ROOT / room).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules: list[str] = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module or ""]
            found |= {module.split(".")[0]: path.name for module in modules}
    return {name: file for name, file in found.items() if name not in {*sys.stdlib_module_names, *OWN}}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_import_is_a_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [
        one for name, names in project["optional-dependencies"].items() if name not in NOT_OF_USERS for one in names
    ]
    declared = {plain(re.match(r"[\w.-]+", line).group()) for line in (*project["dependencies"], *extras)}
    names = imported_names()
    assert len(names) > 30
    providers = packages_distributions()
    undeclared = {
        name: file for name, file in names.items() if not {plain(one) for one in providers.get(name, [name])} & declared
    }
    assert undeclared == {}
