"""The JSON schemas for editors: up to date, and of the same mind as what reads the files."""

import json
from pathlib import Path

import jsonschema
import pytest

from orchestrator.cli.schemas import main, schemas
from orchestrator.configuration import load_yaml

ROOT = Path(__file__).resolve().parents[2]


def schema(name):
    return json.loads((ROOT / "docs" / "schemas" / f"{name}.json").read_text())


def test_the_written_schemas_are_those_of_the_code(tmp_path):
    assert main(["--output", str(tmp_path)]) == 0
    for name, text in schemas():
        assert (tmp_path / name).read_text() == text
        written = ROOT / "docs" / "schemas" / name
        assert written.read_text() == text, f"{written} is of other code; run python -m orchestrator.schemas"


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("study", "splits/*/study.yaml"),
        ("folds", "splits/*/folds.yaml"),
        ("tables", "splits/*/tables.yaml"),
        ("cluster", "clusters/[!p]*.yaml"),
        ("batch", "clusters/batch/*.yaml"),
        ("prices", "clusters/prices.yaml"),
    ],
)
def test_the_shipped_files_are_what_the_schemas_say(name, files):
    found = sorted(ROOT.glob(files))
    assert found
    for path in found:
        # A date is a text to JSON.
        content = json.loads(json.dumps(load_yaml(path), default=str))
        jsonschema.Draft202012Validator(schema(name)).validate(content)


def patterned(part):
    """Yield the parts of a schema that say what form keys have."""
    if isinstance(part, dict) and "patternProperties" in part:
        yield part
    for value in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from patterned(value)


def test_names_of_another_form_are_none_to_an_editor_either():
    parts = [part for name, _ in schemas() for part in patterned(schema(name.removesuffix(".json")))]
    assert len(parts) > 20
    assert [part for part in parts if part.get("additionalProperties") is not False] == []
    study = load_yaml(ROOT / "splits" / "brain_mri" / "study.yaml")
    valid = jsonschema.Draft202012Validator(schema("study")).is_valid
    assert valid(study)
    for key in ("datasets", "models", "trainings"):
        (name, entry), *_ = study[key].items()
        assert valid({**study, key: {**study[key], "other": entry}})
        for other in ("liver ct", "größe", "_a", "", "a" * 101):
            assert not valid({**study, key: {**study[key], other: entry}})
        assert not valid({**study, key: {name: {**entry, "unknown": 1}}})


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"num_cpus": 2},
        {"kind": "locl"},
        {"kind": "local", "num_cpu": 2},
        {"kind": "local", "num_cpus": 0},
        {"kind": "existing"},
        {"kind": "existing", "address": "auto", "may_start": {"a": {"number": 1}}},
        {"kind": "aws"},
    ],
)
def test_what_is_no_cluster_file_is_none_to_an_editor_either(content):
    assert not jsonschema.Draft202012Validator(schema("cluster")).is_valid(content)
