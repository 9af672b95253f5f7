"""The cases of a data set, and how they are divided: as listed, as nnU-Net divides them, or patient by patient."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.benchmark.study_file import ALL, FOLD, OTHER_FOLDS, REST, FoldRule, Folds, SplitFile
from orchestrator.configuration import load_table
from orchestrator.errors import ConfigError
from orchestrator.storage.json_values import distinct_keys

TEST_PART = "test"
"""Part of the cases that nnU-Net's layout keeps in `imagesTs`."""
NNUNET_FOLDS = FoldRule()
"""nnU-Net's own: five, with its seed."""
_WHOLE_NUMBER = re.compile(r"0*([0-9]+)(\.0*)?")
"""The name of a patient that is a number, as one table or another writes it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fold:
    """One way in which a data set is divided in two."""

    own: tuple[str, ...]
    """Cases of the fold."""
    others: tuple[str, ...]
    """Cases that go with it: those of the other folds, unless a file of splits leaves out some."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetCases:
    """The cases of a data set, and how they are divided."""

    everything: tuple[str, ...]
    """Every case, sorted."""
    parts: Mapping[str, tuple[str, ...]]
    """By name."""
    folds: tuple[Fold, ...] = ()
    patients: tuple[tuple[str, ...], ...] = ()
    """Cases of each patient who has several."""

    @property
    def rest(self) -> tuple[str, ...]:
        """Cases that are in no part that has a name."""
        named = {name for names in self.parts.values() for name in names}
        return tuple(name for name in self.everything if name not in named)

    @property
    def part_names(self) -> tuple[str, ...]:
        """Every name that `select` knows."""
        return (*self.parts, *((FOLD, OTHER_FOLDS) if self.folds else ()), *((REST,) if self.rest else ()), ALL)

    def select(self, part: str, *, fold: int) -> tuple[str, ...]:
        """Return the cases of a part of one fold."""
        match part:
            case "all":
                return self.everything
            case "rest":
                return self.rest
            case "fold":
                return self.folds[fold].own
            case "other-folds":
                return self.folds[fold].others
        return self.parts[part]


def listed_cases(entry: Folds | Mapping[str, Sequence[str]] | Sequence[str], *, where: str) -> DatasetCases:
    """Return the cases of a data set as `folds.yaml` lists them; raises ConfigError if one stands twice."""
    if isinstance(entry, Folds):
        _check_once([name for names in entry.folds for name in names], where=where)
        return DatasetCases(everything=_sorted(entry.folds), parts={}, folds=_folds(entry.folds))
    if isinstance(entry, Mapping):
        return with_parts(DatasetCases(everything=_sorted(entry.values()), parts={}), entry, where=where)
    _check_once(entry, where=where)
    return DatasetCases(everything=tuple(sorted(entry)), parts={})


def with_parts(cases: DatasetCases, parts: Mapping[str, Sequence[str]], *, where: str) -> DatasetCases:
    """Return the cases with some of them in parts that have a name; raises ConfigError for an unknown case."""
    if reserved := sorted({FOLD, OTHER_FOLDS, ALL, REST} & set(parts)):
        raise ConfigError(f"{where}: {reserved[0]!r} is no name for a part; it always means the same")
    part_of = {name: part for part, names in cases.parts.items() for name in names}
    for part, names in parts.items():
        if taken := [name for name in names if name in part_of]:
            raise ConfigError(
                f"{where}.{part}: {taken[0]} is in the part `{part_of[taken[0]]}` already; expected cases that are in "
                "no part"
            )
    found = {**cases.parts, **{part: tuple(names) for part, names in parts.items()}}
    _check_once([name for names in found.values() for name in names], where=where)
    for part, names in parts.items():
        _check_known(names, cases.everything, where=f"{where}.{part}")
    return DatasetCases(everything=cases.everything, parts=found, folds=cases.folds, patients=cases.patients)


def divided(
    cases: DatasetCases, rule: str | FoldRule | SplitFile, *, folder: Path, where: str
) -> tuple[DatasetCases, bytes]:
    """Return the cases divided into folds, and the content of the file that says how, if there is one.

    Parameters
    ----------
    cases
        Those in parts that have a name are in no fold.
    rule
        `nnunet` for the very folds that nnU-Net makes; or numbers and a file of patients; or a file of splits.
    folder
        Of the study file, in which other files are looked for.
    where
        For messages.

    Raises
    ------
    ConfigError
        If a file cannot be read, names an unknown case or lacks one, or there are fewer cases than folds.
    """
    if isinstance(rule, SplitFile):
        path = folder / rule.file
        if path.suffix == ".pkl":
            raise ConfigError(
                f"{path}: a pickle of nnU-Net 1, which is not opened since it can hold programs; expected the "
                "`splits_final.json` of nnU-Net 2, a list of `train` and `val` with the names of their cases"
            )
        content = _read(path)
        folds = tuple(_split(entry, cases.rest, where=f"{path}: split {i}") for i, entry in enumerate(_json(path)))
        return _with_folds(cases, folds, patients=cases.patients), content
    rule = NNUNET_FOLDS if isinstance(rule, str) else rule
    patients, content = {name: name for name in cases.rest}, b""
    if rule.patients is not None:
        path = folder / rule.patients
        patients = read_patients(path, cases.everything)
        content = path.read_bytes()
    folds = _folds(drawn(cases.rest, patients, rule=rule, where=where))
    return _with_folds(cases, folds, patients=_several(cases.everything, patients)), content


def with_patients(cases: DatasetCases, path: Path) -> tuple[DatasetCases, bytes]:
    """Return the cases with the patients of a file, and its content; raises ConfigError as `read_patients`."""
    patients = _several(cases.everything, read_patients(path, cases.everything))
    return replace(cases, patients=patients), path.read_bytes()


def _with_folds(cases: DatasetCases, folds: tuple[Fold, ...], *, patients: tuple[tuple[str, ...], ...]) -> DatasetCases:
    return DatasetCases(everything=cases.everything, parts=cases.parts, folds=folds, patients=patients)


def drawn(names: Sequence[str], patients: Mapping[str, str], *, rule: FoldRule, where: str) -> list[list[str]]:
    """Divide patients as nnU-Net divides cases; returns the cases of each fold.

    Parameters
    ----------
    names
        Cases, sorted.
    patients
        Of each case: the case itself where nothing else is known.
    rule
        Number of folds, and seed.
    where
        For messages.

    Raises
    ------
    ConfigError
        If there are fewer patients than folds.
    """
    # The very call of nnU-Net's generate_crossval_split, over sorted names.
    from sklearn.model_selection import KFold

    everyone = sorted({patients[name] for name in names})
    if len(everyone) < rule.number:
        raise ConfigError(
            f"{where}: {len(everyone)} cases or patients for {rule.number} folds; expected at least as many"
        )
    parts = KFold(n_splits=rule.number, shuffle=True, random_state=rule.seed).split(everyone)
    chosen = [{everyone[index] for index in own} for _, own in parts]
    return [[name for name in names if patients[name] in own] for own in chosen]


def read_patients(path: Path, names: Sequence[str]) -> dict[str, str]:
    """Read which patient each case is of.

    Raises
    ------
    ConfigError
        If the file cannot be read, or is none with the columns `case` and `patient`, each once; a case has no patient
        or stands twice; or two patients are written alike but for case, zeros or the form of accents, which are one.
    """
    table = load_table(path)
    if table.columns.count("case") != 1 or table.columns.count("patient") != 1:
        raise ConfigError(
            f"{path}: columns {list(table.columns)}; expected case and patient among them, each once, and a comma, "
            "semicolon or tab between them"
        )
    rows = [(_composed(row["case"]), row["patient"]) for _, row in table.rows]
    _check_once([case for case, _ in rows], where=str(path))
    patients = dict(rows)
    for name in names:
        if not patients.get(_composed(name)):
            raise ConfigError(f"{path}: no patient for case {name}; expected one for every case of the data set")
    spellings: dict[str, str] = {}
    for patient in patients.values():
        if (other := spellings.setdefault(_spelled(patient), patient)) != patient:
            raise ConfigError(
                f"{path}: patients {_seen(other, patient)} and {_seen(patient, other)}; expected one spelling for "
                "each patient"
            )
    return patients | {name: patients[_composed(name)] for name in names}


def _composed(name: str) -> str:
    """Return what is equal for names in which accents are letters of their own, as macOS writes them, or are not."""
    return unicodedata.normalize("NFC", name)


def _seen(name: str, other: str) -> str:
    """Return a name so that it is seen how it differs from another one."""
    return ascii(name) if _composed(name) == _composed(other) else repr(name)


def _spelled(patient: str) -> str:
    """Return what is equal for names that people write in several ways: p7 and P7, 7 and 07 and 7.0, forms of ü."""
    # No more than that: 1_23 and 12_3, 1.1 and 1.10, 0e12 and 0e34 are sites and numbers, each of another patient.
    patient = unicodedata.normalize("NFKC", patient)
    number = _WHOLE_NUMBER.fullmatch(patient)
    return number[1] if number else patient.casefold()


def _several(names: Sequence[str], patients: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    scans: dict[str, list[str]] = {}
    for name in names:
        if name in patients:
            scans.setdefault(patients[name], []).append(name)
    return tuple(tuple(several) for _, several in sorted(scans.items()) if len(several) > 1)


def _split(entry: object, names: Sequence[str], *, where: str) -> Fold:
    """Return one entry of nnU-Net's file."""
    wanted = {"train", "val"}
    if not isinstance(entry, dict) or set(entry) != wanted or not all(_is_names(entry[key]) for key in wanted):
        keys = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
        if isinstance(entry, dict) and (empty := [key for key in sorted(wanted) if entry.get(key) == []]):
            keys = f"an empty list `{empty[0]}`"
        raise ConfigError(f"{where}: found {keys}; expected lists of cases `train` and `val`, and nothing else")
    _check_once([*entry["train"], *entry["val"]], where=where)
    _check_known([*entry["train"], *entry["val"]], names, where=where)
    return Fold(own=tuple(entry["val"]), others=tuple(entry["train"]))


def _is_names(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)


def _json(path: Path) -> list[object]:
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=distinct_keys)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON ({error}); expected nnU-Net's list of splits") from error
    if not isinstance(content, list) or not content:
        raise ConfigError(f"{path}: found {type(content).__name__}; expected nnU-Net's list of splits")
    return content


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); expected a file of text in UTF-8") from error
    return content


def _folds(folds: Sequence[Sequence[str]]) -> tuple[Fold, ...]:
    return tuple(
        Fold(own=tuple(own), others=tuple(name for j, names in enumerate(folds) if j != i for name in names))
        for i, own in enumerate(folds)
    )


def _sorted(lists: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(sorted({name for names in lists for name in names}))


def _check_once(names: Sequence[str], *, where: str) -> None:
    if repeated := [name for name, number in Counter(names).items() if number > 1]:
        raise ConfigError(f"{where}: {', '.join(repeated)} stands twice; expected each case in one part or fold")


def _check_known(names: Sequence[str], known: Sequence[str], *, where: str) -> None:
    if unknown := sorted(set(names) - set(known)):
        alike = next((name for name in known if _composed(name) == _composed(unknown[0])), None)
        first = _seen(unknown[0], alike or "")
        shown = (
            f"{_seen(alike, unknown[0])}, as its files have it" if alike else f"names such as {', '.join(known[:3])}"
        )
        raise ConfigError(f"{where}: {first} is not among the {len(known)} cases that can be divided; expected {shown}")
