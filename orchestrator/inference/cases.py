"""Which images there are to predict: nnU-Net's names with a number for each channel, any files, DICOM, or a table."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.configuration import load_table
from orchestrator.errors import ConfigError
from orchestrator.images.dicom.elements import looks_like_dicom
from orchestrator.images.source_file import leads_nowhere
from orchestrator.inference.output_folder import RECORD, TABLE

_CHANNEL = re.compile(r"(.+)_(\d{4})")
_TABLE_ENDING = ".csv"
_TAKEN = frozenset({Path(RECORD).stem, Path(TABLE).stem})
"""Names of what a folder of predictions has beside those of cases."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InputCase:
    """One image."""

    name: str
    files: tuple[Path, ...]
    """A file for each channel, in their order; or the one folder of a DICOM series."""
    modalities: tuple[str, ...] = ("CT",)
    """Those of which a DICOM series may be."""

    @property
    def is_dicom(self) -> bool:
        """Whether it is a DICOM series."""
        return self.files[0].is_dir()


def find_cases(
    source: Path,
    *,
    endings: Sequence[str],
    num_channels: int,
    has_colours: bool = False,
    output: Path | None = None,
) -> tuple[InputCase, ...]:
    """Return the images of a file or folder, sorted by name.

    Files `<case>_0000<ending>`, `<case>_0001<ending>` are the channels of a case, as in nnU-Net. A model of one channel
    takes any other file for a case by itself, and a DICOM series, wherever it lies below a folder of its case.

    Parameters
    ----------
    source
        A file, a folder that is not searched further down unless it holds DICOM alone, or a CSV file with the columns
        `case` and `image` (or `image_0000`, `image_0001`, ... of several channels), whose paths begin where it lies. Of
        folders with DICOM those without are cases, too, which fail.
    endings
        Of the files that are read, `.nii.gz` and so on.
    num_channels
        Of the model.
    has_colours
        Whether they may be the colours of one file, whose name ends with `_0000` or no number at all.
    output
        A folder that is no patient without DICOM where it lies beside others with DICOM.

    Raises
    ------
    ConfigError
        If there are none, if two have one name, a channel is missing, or DICOM series lie beside other images.
    """
    try:
        return _find_cases(source, endings=endings, num_channels=num_channels, has_colours=has_colours, output=output)
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read ({error}); expected images to predict") from error


def _find_cases(
    source: Path, *, endings: Sequence[str], num_channels: int, has_colours: bool, output: Path | None
) -> tuple[InputCase, ...]:
    if source.name.lower().endswith(_TABLE_ENDING) and source.is_file():
        rows = load_table(source).rows
        num_files = 1 if has_colours and rows and "image" in rows[0][1] else num_channels
        return _named_well(_of_table(source, rows, endings=endings, num_channels=num_files), source)
    if source.is_file():
        files = [source, *_siblings(source, endings=endings, num_channels=num_channels)]
    elif source.is_dir():
        within = sorted(path for path in source.iterdir() if not path.name.startswith("."))
        # Of a link that leads nowhere the reader says so, in the row of its case.
        files = [path for path in within if path.is_file() or leads_nowhere(path)]
    else:
        raise ConfigError(f"{source}: no such file or folder; expected images to predict")
    found = _of_files(files, endings=endings, num_channels=num_channels, has_colours=has_colours)
    if source.is_dir() and not (found and num_channels > 1):
        series = _dicom_cases(source, num_channels=num_channels, output=output)
        if found and series:
            raise ConfigError(
                f"{source}: {found[0].files[0].name} ({_counted(found)}) beside DICOM in {series[0].files[0].name} "
                f"({_counted(series)}); expected images of one kind. Give one of these, or a CSV file that names all"
            )
        found = found or series
    if not found:
        if source.is_file() and looks_like_dicom(source):
            raise ConfigError(f"{source}: a single DICOM file; expected the folder of its series")
        raise ConfigError(f"{source}: no image; expected files that end with {', '.join(endings)}, or DICOM series")
    return _named_well(found, source)


def _counted(cases: Sequence[InputCase]) -> str:
    return f"{len(cases)} case{'s' if len(cases) > 1 else ''}"


def dicom_folders(folder: Path) -> tuple[Path, ...]:
    """Return the folders with files of a DICOM case: its own, and all below it."""
    below = sorted(path for path in folder.rglob("*") if path.is_dir() and not path.name.startswith("."))
    return (folder, *below)


def _dicom_cases(source: Path, *, num_channels: int, output: Path | None) -> list[InputCase]:
    """Return a folder whose own files are DICOM as one case, else each folder in it if any has DICOM files below.

    One without is a patient whose download failed, perhaps: predicting it tells. On a disc it is a program.
    """
    within = sorted(source.iterdir())
    folders = [path for path in within if path.is_dir() and not path.name.startswith(".")]
    # A folder of predictions has DICOM objects of its own.
    folders = [path for path in folders if not (path / RECORD).is_file()]
    with_dicom = [path for path in folders if _holds_dicom(path.rglob("*"))]
    is_disc = any(map(_is_directory_of_disc, within))
    if _holds_dicom(within) or (is_disc and len(with_dicom) == 1):
        folders = [source.resolve()]
    elif is_disc or not with_dicom:
        folders = with_dicom
    elif output is not None:
        folders = [path for path in folders if path in with_dicom or path.resolve() != output.resolve()]
    if folders and num_channels > 1:
        raise ConfigError(
            f"{source}: a DICOM series is an image of one channel; expected {num_channels}, as the model has. Convert "
            "them to files <case>_0000.nii.gz, <case>_0001.nii.gz and so on"
        )
    return [InputCase(name=path.name, files=(path,)) for path in folders]


def _holds_dicom(paths: Iterable[Path]) -> bool:
    return any(
        path.is_file()
        and not path.name.startswith(".")
        and not _is_directory_of_disc(path)
        and (path.suffix.lower() == ".dcm" or looks_like_dicom(path))
        for path in paths
    )


def _is_directory_of_disc(path: Path) -> bool:
    """Whether it is the list of all files of a disc, which is DICOM, too, and of no patient."""
    return path.name.upper().startswith("DICOMDIR") and path.is_file()


def _of_files(
    files: Sequence[Path], *, endings: Sequence[str], num_channels: int, has_colours: bool
) -> list[InputCase]:
    by_case: dict[str, dict[int, Path]] = defaultdict(dict)
    stems = {path: stem for path in files if (stem := _stem(path, endings)) is not None}
    there = set(stems.values())
    for path, stem in stems.items():
        match = _CHANNEL.fullmatch(stem)
        # Numbers of scans look like those of channels: `study_0255`, with a model of one channel.
        is_channel = match is not None and (num_channels > 1 or f"{match[1]}_0000" in there)
        name, channel = (match[1], int(match[2])) if match and is_channel else (stem, 0)
        if channel in by_case[name]:
            raise ConfigError(f"{path} and {by_case[name][channel].name}: two images of one name; expected one")
        by_case[name][channel] = path
    return [
        _case(name, found, num_channels=1 if has_colours and list(found) == [0] else num_channels)
        for name, found in sorted(by_case.items())
    ]


def _of_table(
    table: Path, rows: Sequence[tuple[int, dict[str, str]]], *, endings: Sequence[str], num_channels: int
) -> list[InputCase]:
    """Return the cases of a CSV file."""
    there = list(rows[0][1]) if rows else []
    columns = [f"image_{number:04d}" for number in range(num_channels)]
    if num_channels == 1 and ("image" in there or columns[0] not in there or "image_0001" in there):
        columns = ["image"]
    if missing := [name for name in ("case", *columns) if name not in there]:
        found = ", ".join(there) or "no row"
        raise ConfigError(f"{table}: without the column {', '.join(missing)} (found {found}); expected a row a case")
    cases = []
    for number, row in rows:
        name, paths = row["case"], [row[column] for column in columns]
        if not name or not all(paths):
            raise ConfigError(f"{table}, line {number}: an empty cell; expected {', '.join(('case', *columns))}")
        files = tuple(table.parent / path for path in paths)
        for file in files:
            is_series = file.is_dir() and num_channels == 1
            if not is_series and not (file.is_file() and _stem(file, endings)):
                raise ConfigError(
                    f"{table}, line {number}: {file} is no image that is there; expected a file that ends with "
                    f"{', '.join(endings)}, or the folder of a DICOM series for a model of one channel"
                )
        cases.append(InputCase(name=name, files=files))
    return sorted(cases, key=lambda case: case.name)


def _named_well(cases: Sequence[InputCase], source: Path) -> tuple[InputCase, ...]:
    """Return the cases; raises ConfigError where files of one could be those of another, or lie elsewhere."""
    seen: set[str] = set()
    for case in cases:
        if case.name in seen:
            raise ConfigError(f"{source}: two cases {case.name}; expected one of a name")
        if case.name in _TAKEN or case.name.startswith(".") or not _is_plain(case.name):
            raise ConfigError(f"{source}: a case {case.name!r}, which cannot name files; expected another name")
        seen.add(case.name)
    return tuple(cases)


def _is_plain(name: str) -> bool:
    return name.isprintable() and not set(name) & set('/\\:*?"<>|') and len(name.encode()) <= 200


def _siblings(source: Path, *, endings: Sequence[str], num_channels: int) -> list[Path]:
    """Return the other channels beside a file that is named as the first one."""
    stem = _stem(source, endings) or ""
    match = _CHANNEL.fullmatch(stem)
    if match is None or int(match[2]) != 0:
        return []
    ending = source.name.removeprefix(stem)
    others = (source.with_name(f"{match[1]}_{channel:04d}{ending}") for channel in range(1, num_channels))
    return [path for path in others if path.is_file()]


def _stem(path: Path, endings: Sequence[str]) -> str | None:
    ending = next((ending for ending in endings if path.name.lower().endswith(ending)), None)
    return None if ending is None else path.name[: -len(ending)]


def _case(name: str, channels: dict[int, Path], *, num_channels: int) -> InputCase:
    expected = range(num_channels)
    if sorted(channels) != list(expected):
        found = ", ".join(channels[channel].name for channel in sorted(channels))
        raise ConfigError(
            f"case {name}: {found}; expected {num_channels} channels, {name}_0000 to {name}_{num_channels - 1:04d}"
        )
    return InputCase(name=name, files=tuple(channels[channel] for channel in expected))
