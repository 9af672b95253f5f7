"""YAML and tables read strictly: every key is known and its value fits, or the error says where and what was meant."""

import codecs
import csv
import difflib
import io
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.errors import ConfigError

MAX_YAML_BYTES = 1024**2
MAX_YAML_VALUES = 200_000
"""Of one file, whatever its aliases stand for."""
MAX_TABLE_BYTES = 16 * 1024**2

_DELIMITERS = ",;\t"
_NUM_LISTED = 4
"""Names that a message lists."""
_OF_A_KEY = "[key]"
"""Last part of the place of an error in a key itself."""
_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = _shown.maxlong = 200


class Entry(BaseModel):
    """A file or a part of one: no key is unknown, no value of another type, and no number infinite."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


def is_folder(location: str) -> bool:
    """Whether a folder of this machine is there; raises ConfigError if that cannot be seen."""
    try:
        return Path(location).is_dir()
    except OSError as error:
        raise ConfigError(f"{location}: cannot be reached ({error.strerror}); expected a readable folder") from error


def from_home(location: str) -> str:
    """Return a path with the home of this user for a first part `~`; raises ConfigError if there is none."""
    # No shell does that behind `--output=`, in a file or in Python.
    if Path(location).parts[:1] != ("~",):
        return location
    try:
        return str(Path(location).expanduser())
    except RuntimeError as error:
        raise ConfigError(f"{location}: this user has no home folder; expected a path without ~") from error


def absolute(location: str, *, option: str) -> Path:
    """Return the path of a folder, links followed; raises ConfigError where they lead in a circle."""
    # What a path makes of `s3://bucket/x`: a folder `s3:` would be made without a word.
    if location.partition(":")[0].lower() in {"s3", "gs", "az"} and ":" in location:
        raise ConfigError(
            f"{option} {location}: not a storage location; expected a folder, or s3://, gs:// or az:// with "
            "bucket/prefix (a path has only one slash there)"
        )
    location = from_home(location)
    try:
        path = Path(location).resolve()
        is_circle = path.is_symlink()
    except RuntimeError:
        is_circle = True
    except OSError as error:
        raise ConfigError(f"{option} {location}: cannot be reached ({error.strerror}); expected a folder") from error
    if is_circle:
        raise ConfigError(f"{option} {location}: its links lead in a circle; expected a folder")
    return path


def check_options(given: Mapping[str, object], known: type) -> None:
    """Raise TypeError for a name that is none of a TypedDict, as Python does for parameters."""
    names = known.__annotations__
    if unknown := given.keys() - names.keys():
        raise TypeError(f"unknown option {min(unknown)!r}; expected some of {', '.join(names)}")


def load_yaml(path: Path) -> Any:
    """Return the content of a YAML file; raises ConfigError if it is missing, not YAML, too much or has a key twice."""
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: not a file; expected a YAML file")
        with path.open("rb") as file:
            content = file.read(MAX_YAML_BYTES + 1)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); expected a YAML file") from error
    if len(content) > MAX_YAML_BYTES:
        raise ConfigError(f"{path}: more than {MAX_YAML_BYTES} bytes; expected a file that people write")
    try:
        loader = _StrictLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError) as error:  # an impossible date is a ValueError
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deep; expected a few levels") from error


_NUMBERS = {
    "tag:yaml.org,2002:int": re.compile(r"[-+]?(?:0|[1-9][0-9_]*)$"),
    "tag:yaml.org,2002:float": re.compile(
        r"[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+][0-9]+|\.inf)$|\.nan$"
    ),
}
"""What is a number, as in YAML 1.2: 1e-4 is one, and neither is 1:30 ninety nor 010 eight. Without a sign, as in 1e4,
it may be the name of something, or part of a digest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """What a CSV file says."""

    columns: tuple[str, ...]
    """Names of the columns in small letters."""
    rows: tuple[tuple[int, dict[str, str]], ...]
    """The cells of each row that has anything in it by their columns, with the number of its line."""


def load_table(path: Path) -> Table:
    """Read a CSV file as Excel and others write it; raises ConfigError if it cannot be read.

    Columns are divided by what a first line `sep=;` says, or by what the first line has: Excel writes semicolons where
    a comma is that of decimals. Its "Unicode text" is UTF-16.
    """
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise ConfigError(f"{path}: {path.stat().st_size} bytes; expected a table of cases")
        content = path.read_bytes()
        is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if is_wide else "utf-8-sig")
        first, _, others = text.partition("\n")
        said = re.fullmatch(r"\"?sep=(.)\"?\s*", first, re.IGNORECASE)
        delimiter = said[1] if said else next((one for one in _DELIMITERS if one in first), _DELIMITERS[0])
        file = io.StringIO(others if said else text, newline="")
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
        columns = [cell.strip().lower() for cell in next(reader, [])]
        rows = [
            (
                reader.line_num + bool(said),
                dict.fromkeys(columns, "") | dict(zip(columns, map(str.strip, cells), strict=False)),
            )
            for cells in reader
            if any(map(str.strip, cells))
        ]
    except (csv.Error, OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); expected CSV in UTF-8, as Excel's `CSV UTF-8`") from error
    return Table(columns=tuple(columns), rows=tuple(rows))


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice, which YAML would silently overwrite, and a few lines that mean gigabytes."""

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None and _num_values(node, known={}) > MAX_YAML_VALUES:
            raise yaml.composer.ComposerError(
                None, None, f"its aliases stand for more than {MAX_YAML_VALUES} values", node.start_mark
            )
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r:.80} is no text", node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, _NUMBERS.get(tag, pattern)) for tag, pattern in known]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _num_values(node: yaml.Node, *, known: dict[int, int]) -> int:
    """Return how many values a node has with all aliases written out; one that contains itself has too many."""
    if id(node) not in known:
        known[id(node)] = MAX_YAML_VALUES
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        if isinstance(node, yaml.ScalarNode):
            parts = []
        known[id(node)] = min(1 + sum(_num_values(part, known=known) for part in parts), MAX_YAML_VALUES + 1)
    return known[id(node)]


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__


def expect_known(names: Iterable[str], known: Iterable[str], *, where: str, what: str) -> None:
    """Raise ConfigError for a name that is not known."""
    offered = list(known)
    for name in names:
        if name not in offered:
            near = difflib.get_close_matches(name, offered, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(offered)}"
            raise ConfigError(f"{where}: unknown {what} {name!r}; {hint}")


def yaml_line(value: object) -> str:
    """Return a value in one line of YAML."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**9)
    return text.removesuffix("\n").removesuffix("\n...")


def listing(names: Sequence[str]) -> str:
    """Join names for a message, the first few: `a, b, c, d and 16 more`; `nothing` for none."""
    more = f" and {len(names) - _NUM_LISTED} more" if len(names) > _NUM_LISTED else ""
    return f"{', '.join(names[:_NUM_LISTED])}{more}" or "nothing"


def counted(number: int, noun: str) -> str:
    """Return `1 training` or `45 trainings`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


Understood = TypeVar("Understood", bound=BaseModel)


def understood(
    content: object, model: type[Understood], *, where: str, context: object = None, below: str | None = None
) -> Understood:
    """Return the content of a file as a model has it; raises ConfigError with the file, the key and what was expected.

    Parameters
    ----------
    content
        As `load_yaml` returns it.
    model
        Strict, and with every key that the file may hold.
    where
        The file, for messages.
    context
        Given to the validators of the model.
    below
        Field of the model that is the whole file, which has no key of this name.
    """
    wrapped = content if below is None else {below: content}
    try:
        return model.model_validate(wrapped, context=context)
    except ValidationError as error:
        raise refusal(error, model, where=where, content=wrapped, below=below) from None


def refusal(
    error: ValidationError, model: type[BaseModel], *, where: str, content: object = None, below: str | None = None
) -> ConfigError:
    """Return what is wrong with the content of a file in one line of ours; parameters as of `understood`."""
    details = _of_what_is_meant(error.errors(include_url=False), content)
    # An unknown key explains most often what else is wrong, such as a key that is missing.
    first = next((detail for detail in details if detail["type"] == "extra_forbidden"), details[0])
    parts = [part for part, is_key in zip(first["loc"], _are_keys(first, content), strict=True) if is_key]
    known = _keys(model, first["loc"][:-1])
    return ConfigError(
        _message(first, parts[1:] if below and parts[:1] == [below] else parts, known=known, where=where)
    )


def first_problem(error: ValidationError) -> str:
    """Return where the first fault of a record is, and what it is, in one line."""
    problem = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'the file'}: {problem['msg']}"


def _are_keys(detail: ErrorDetails, content: object) -> list[bool]:
    """Return which parts of the place of an error are keys; others are names of types, one of which was expected."""
    found = []
    value = content
    for number, part in enumerate(detail["loc"], start=1):
        is_there = (isinstance(value, dict) and part in value) or (isinstance(value, list) and isinstance(part, int))
        is_missing = number == len(detail["loc"]) and detail["type"] == "missing"
        found.append(content is None or is_there or is_missing or part == _OF_A_KEY)
        if is_there:
            value = value[part]  # type: ignore[index]
    return found


def _of_what_is_meant(details: Sequence[ErrorDetails], content: object, *, start: int = 0) -> list[ErrorDetails]:
    """Return the errors without those that say only that a value is not of another type that it might be."""
    found: list[ErrorDetails] = []
    types: dict[tuple[int | str, ...], dict[int | str, list[ErrorDetails]]] = {}
    for detail in details:
        others = [at for at, is_key in enumerate(_are_keys(detail, content)) if at >= start and not is_key]
        if others:
            of_place = types.setdefault(detail["loc"][: others[0]], {})
            of_place.setdefault(detail["loc"][others[0]], []).append(detail)
        else:
            found.append(detail)
    for place, by_type in types.items():
        likely = min(by_type.values(), key=lambda several: _distance(several, at=len(place)))
        found += _of_what_is_meant(likely, content, start=len(place) + 1)
    return sorted(found, key=details.index)


def _distance(details: Sequence[ErrorDetails], *, at: int) -> tuple[int, int, int]:
    """Return how unlikely it is that a value was meant to be of the type of which these are the errors."""
    of_itself = [one for one in details if len(one["loc"]) == at + 1]
    is_other = any(
        one["type"].endswith("_type") or (one["type"] == "literal_error" and not isinstance(one["input"], str))
        for one in of_itself
    )
    keys = [one for one in details if one["type"] in {"extra_forbidden", "missing"}]
    return is_other, len(keys), len(details)


def _message(detail: ErrorDetails, parts: Sequence[int | str], *, known: Sequence[str], where: str) -> str:
    found = f"{_shown.repr(detail['input'])} ({_kind(detail['input'])})"
    if not parts:
        return f"{where}: found {found}; expected {_expected(detail)}"
    if parts[-1] == _OF_A_KEY:
        place = ": ".join([where, *([_place(parts[:-2])] if parts[:-2] else [])])
        return f"{place}: key {_shown.repr(detail['input'])}; expected {_expected(detail)}"
    *parents, key = parts
    place = ": ".join([where, *([_place(parents)] if parents else [])])
    match detail["type"]:
        case "extra_forbidden" if key in known:
            return f"{place}: key {_shown.repr(key)} does not go with the others; expected one or the other"
        case "extra_forbidden":
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
            return f"{place}: unknown key {_shown.repr(key)}; {hint}"
        case "missing":
            return f"{place}: key {key!r} is missing"
        case _:
            return f"{place}: {key} is {found}; expected {_expected(detail)}"


def _place(parts: Sequence[int | str]) -> str:
    return ".".join(text if text.isprintable() else repr(text) for text in map(str, parts))


_IN_WORDS = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "string_pattern_mismatch": "text of the form {pattern}",
    "model_type": "dictionary",
}
"""What was expected, by what pydantic calls it that it was not."""


def _expected(detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    if detail["type"] in _IN_WORDS:
        shown = {name: f"{value:g}" if isinstance(value, float) else value for name, value in context.items()}
        return _IN_WORDS[detail["type"]].format_map(shown)
    match detail["type"]:
        case "value_error":  # of a validator of ours, which says what it expects
            return str(context["error"])
        case "literal_error":
            expected: str = context["expected"]
            near = difflib.get_close_matches(str(detail["input"]), re.findall(r"'([^']*)'", expected), n=1)
            return expected + (f"; did you mean {near[0]!r}?" if near else "")
        case "string_type" if type(detail["input"]) in {int, float}:
            return f"string, which takes quotes: {str(detail['input'])!r}"
        case _:
            return detail["msg"].removeprefix("Input should be ").removeprefix("a valid ")


def _keys(model: type[BaseModel], parents: Sequence[int | str]) -> list[str]:
    """Return the keys of the part of a model at a place; keys of mappings, which are free, are passed over.

    Where there may be several models, they are those of all.
    """
    found = [model]
    for key in parents:
        fields = [one.model_fields[str(key)] for one in found if str(key) in one.model_fields]
        found = [inner for field in fields for inner in _models_in(field.annotation)] or found
    return list(dict.fromkeys(name for one in found for name in one.model_fields))


def _models_in(annotation: object) -> list[type[BaseModel]]:
    """Return the models in an annotation such as `dict[str, Entry]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]
