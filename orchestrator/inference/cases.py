"""Which images there are to predict: nnU-Net's names with a number for each channel, or any files."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import ConfigError

_CHANNEL = re.compile(r"(.+)_(\d{4})")


@dataclass(frozen=True, kw_only=True, slots=True)
class InputCase:
    """One image, a file for each channel."""

    name: str
    files: tuple[Path, ...]
    """In the order of the channels."""


def find_cases(source: Path, *, endings: Sequence[str], num_channels: int) -> tuple[InputCase, ...]:
    """Return the images of a file or folder, sorted by name.

    Files `<case>_0000<ending>`, `<case>_0001<ending>` are the channels of a case, as in nnU-Net. A model of one channel
    takes any other file for a case by itself.

    Parameters
    ----------
    source
        A file, or a folder that is not searched further down.
    endings
        Of the files that the model reads, `.nii.gz` and so on.
    num_channels
        Of the model.

    Raises
    ------
    ConfigError
        If there are none, if two have one name, or a channel is missing.
    """
    if source.is_file():
        files = [source, *_siblings(source, endings=endings, num_channels=num_channels)]
    elif source.is_dir():
        files = sorted(path for path in source.iterdir() if path.is_file() and not path.name.startswith("."))
    else:
        raise ConfigError(f"{source}: no such file or folder; expected images to predict")
    by_case: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in files:
        stem = _stem(path, endings)
        if stem is None:
            continue
        match = _CHANNEL.fullmatch(stem)
        name, channel = (match[1], int(match[2])) if match else (stem, 0)
        if channel in by_case[name]:
            raise ConfigError(f"{path} and {by_case[name][channel].name}: two images of one name; expected one")
        by_case[name][channel] = path
    if not by_case:
        raise ConfigError(
            f"{source}: no image; expected files that end with {', '.join(endings)}, which the model reads"
        )
    return tuple(_case(name, by_case[name], num_channels=num_channels) for name in sorted(by_case))


def _siblings(source: Path, *, endings: Sequence[str], num_channels: int) -> list[Path]:
    """Return the other channels beside a file that is named as the first one."""
    ending = next((ending for ending in endings if source.name.endswith(ending)), "")
    match = _CHANNEL.fullmatch(source.name.removesuffix(ending))
    if match is None or int(match[2]) != 0:
        return []
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
