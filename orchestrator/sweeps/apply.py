"""Makes the best trial of a sweep a model of its study, by adding it to the study file and changing nothing else."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import yaml

from orchestrator.benchmark.definition import Training
from orchestrator.benchmark.study import Study
from orchestrator.configuration import load_yaml, yaml_line
from orchestrator.errors import ConfigError
from orchestrator.search.space import OF_A_MODEL
from orchestrator.shipped import is_installed, or_shipped
from orchestrator.storage import run_paths
from orchestrator.storage.json_values import JsonMapping
from orchestrator.sweeps.written import SweepRecord

DEFAULT_MODEL = "3d"
"""Name of the model of a study whose file names none."""
_LONGEST = 99
"""Letters of the name of a new model, which its suffix has behind a hyphen."""


def apply_best(
    path: Path, training: Training, record: SweepRecord, *, name: str, load: Callable[[Path], object]
) -> None:
    """Add the best trial of a sweep to a study file as a model, and to the trainings of the group that was searched on.

    Parameters
    ----------
    path
        The study file. Comments, order and everything else in it stay.
    training
        The training on whose cases the sweep searched.
    record
        What the sweep has found.
    name
        Of the new model; it is also what it adds to the names of its trainings.
    load
        Reads a study, and raises ConfigError if a file is none: the file stays as it is unless the new one can be read.

    Raises
    ------
    ConfigError
        If the file is one that comes along with an installed package, has a model of that name, or would not be the
        file of a study with a model of that name.
    """
    if not run_paths.is_name(name) or not name.isascii() or len(name) > _LONGEST:
        raise ConfigError(
            f"--apply {name!r}: is part of the names of files; expected up to {_LONGEST} letters, digits, `_`, `.` and "
            "`-`, a letter or digit first"
        )
    path = or_shipped(path)
    if is_installed(path):
        raise ConfigError(f"{path}: is part of the installed package; expected --study with a copy of its folder")
    content = load_yaml(path)
    if name in (content.get("models") or {}):
        raise ConfigError(f"{path}: has a model {name} already; expected another name after --apply")
    entry = _entry(content, training, record, name=name)
    whole = path.read_bytes().decode()
    is_crlf = whole.count("\r\n") == whole.count("\n")
    text = _with_model(whole.replace("\r\n", "\n") if is_crlf else whole, content, name=name, entry=entry)
    content.setdefault("models", {DEFAULT_MODEL: {}})[name] = entry
    group = training.group.removesuffix(training.model.suffix)
    if own := (content["trainings"][group] or {}).get("models"):
        matrix = own[name] = own[training.model.name]
        text = _with_entry(text, ("trainings", group, "models"), yaml_line(name), yaml_line(matrix))
    _replace(path, text.replace("\n", "\r\n") if is_crlf else text, content=content, load=load)


def changed_ensembles(before: Study, after: Study) -> list[str]:
    """Return a line for each ensemble of a study that has other members in the study with one more model."""
    members, new = _members_of_ensembles(before), _members_of_ensembles(after)
    changed = {name: sorted(own ^ new.get(name, set())) for name, own in members.items()}
    return [
        f"{name}: this ensemble has other members now ({', '.join(others)}); if it is done, the next run makes it anew"
        for name, others in changed.items()
        if others
    ]


def _members_of_ensembles(study: Study) -> dict[str, set[str]]:
    """Return the groups of the members of each ensemble, by its own."""
    found: dict[str, set[str]] = {}
    for training in study.trainings_by_any_preset():
        if training.members:
            found.setdefault(training.group, set()).update(member.group for member in training.members)
    return found


def _with_model(text: str, content: JsonMapping, *, name: str, entry: JsonMapping) -> str:
    """Return the YAML of a study with one more model."""
    # A name may look like a number or a truth value, and is then in quotes.
    key = yaml_line(name)
    if "models" in content:
        return _with_entry(text, ("models",), key, yaml_line(entry))
    root = _node(text, ()).value
    start = root[[one.value for one, _ in root].index("trainings")][0].start_mark.index
    return f"{text[:start]}models:\n  {DEFAULT_MODEL}: {{}}\n  {key}: {yaml_line(entry)}\n\n{text[start:]}"


def _entry(content: dict[str, object], training: Training, record: SweepRecord, *, name: str) -> dict[str, object]:
    """Return the new model as a file has it: that of the training, with the settings of the trial."""
    models = content.get("models") or {}
    base = models.get(training.model.name) if isinstance(models, dict) else None
    entry = dict(base) if isinstance(base, dict) else {}
    best = {key: list(value) if isinstance(value, tuple) else value for key, value in record.best}
    entry |= {key: value for key, value in best.items() if key in OF_A_MODEL}
    preset = {**dict(entry.get("preset") or {}), **{k: v for k, v in best.items() if k not in OF_A_MODEL}}
    if preset:
        entry["preset"] = preset
    entry["suffix"] = f"-{name}"
    schedule = f", with a schedule for {record.num_epochs} epochs" if "schedule" in best else ""
    entry["note"] = (
        f"the best of {record.num_scored} trials on the training cases of {record.training}{schedule}; other folds may "
        "test cases on which it was chosen"
    )
    return entry


def _with_entry(text: str, place: tuple[str, ...], key: str, value: str) -> str:
    """Return YAML with one more entry at the end of a mapping, as the mapping is written."""
    node = _node(text, place)
    if node.flow_style:
        # Behind the last value, as the mapping may end with a comma or a comment.
        end = (node.value[-1][1].end_mark if node.value else node.start_mark).index + (not node.value)
        return f"{text[:end]}{', ' if node.value else ''}{key}: {value}{text[end:]}"
    # A mapping ends where the next thing begins; comments before that are left to it.
    last = node.value[-1][1]
    while isinstance(last, yaml.CollectionNode) and not last.flow_style and last.value:
        last = last.value[-1][1] if isinstance(last, yaml.MappingNode) else last.value[-1]
    indent = " " * node.value[0][0].start_mark.column
    end = last.end_mark.index
    end = len(text[:end].rstrip()) if text[:end].endswith("\n") else _end_of_line(text, end)
    return f"{text[:end]}\n{indent}{key}: {value}{text[end:]}"


def _end_of_line(text: str, index: int) -> int:
    """Return where a line ends; a comment behind a value belongs to it."""
    end = text.find("\n", index)
    return len(text) if end < 0 else end


def _node(text: str, place: tuple[str, ...]) -> yaml.MappingNode:
    """Return the mapping at a place of YAML that was understood before."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    for key in place:
        if isinstance(node, yaml.MappingNode):
            node = next(value for name, value in node.value if name.value == key)
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{'.'.join(place)}: expected a mapping")
    return node


def _replace(path: Path, text: str, *, content: object, load: Callable[[Path], object]) -> None:
    """Write a file beside the old one, then in its place, if it holds what it should and is that of a study."""
    with tempfile.NamedTemporaryFile("wb", dir=path.parent, suffix=".yaml", delete=False) as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
    new = Path(file.name)
    try:
        _expect_content(new, content)
        load(new)
        new.chmod(path.stat().st_mode)
        new.replace(path)
    except ConfigError as error:
        raise ConfigError(
            f"{str(error).replace(str(new), str(path))} (with the new model; the file is as it was)"
        ) from error
    finally:
        new.unlink(missing_ok=True)


def _expect_content(path: Path, content: object) -> None:
    if load_yaml(path) != content:
        raise ConfigError(
            f"{path}: its models are written in a way to which no program can add; expected none that ends with an "
            "alias (`*name`)"
        )
