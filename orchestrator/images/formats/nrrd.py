"""NRRD files (.nrrd, .nhdr), by the definition of teem.sourceforge.net/nrrd/format.html."""

import math
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.images.formats.text_header import LARGEST_HEADER, StoredVoxels, fields_once
from orchestrator.images.image_header import ImageHeader, not_one_volume, volume_header
from orchestrator.images.problem import Fault
from orchestrator.images.stored_voxels import Encoding

_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(
        ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"), "i8"
    ),
    **dict.fromkeys(
        ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"
    ),
    "float": "f4", "double": "f8",
}  # fmt: skip
_ENCODINGS = {
    "raw": Encoding.RAW, "gzip": Encoding.GZIP, "gz": Encoding.GZIP, "bzip2": Encoding.BZIP2, "bz2": Encoding.BZIP2,
    "txt": Encoding.TEXT, "text": Encoding.TEXT, "ascii": Encoding.TEXT,
}  # fmt: skip
_SYNONYMS = {
    "datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip", "axismins": "axis mins",
    "axismaxs": "axis maxs", "centerings": "centers",
}  # fmt: skip
_TO_LPS = {
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1.0, -1.0, 1.0)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1.0, -1.0, 1.0)),
    **dict.fromkeys(
        ("left-posterior-superior", "lps", "scanner-xyz", "3d-right-handed", "3d-left-handed", ""), (1.0, 1.0, 1.0)
    ),
}
"""Spaces without a name for their axes are taken for LPS, as ITK does."""
_OF_SPACE = frozenset(("domain", "space", "time", "???", "none"))
"""Kinds of axes along which voxels lie, for ITK too; along others lie the values of one voxel."""


def parse_nrrd(path: Path) -> tuple[ImageHeader, StoredVoxels]:
    """Read the header of a file; raises Fault."""
    with path.open("rb") as file:
        content = file.read(LARGEST_HEADER)
    if not content.startswith(b"NRRD000"):
        raise _fault("a file without the header of NRRD", expected="one that begins with NRRD0004 or the like")
    end = re.search(rb"\r?\n\r?\n", content)
    fields = _fields((content[: end.start()] if end else content).decode("utf-8", "replace"))
    name = fields.get("data file", "")
    if name.upper().startswith("LIST") or "%" in name:
        raise _fault(f"a header whose voxels are in several files ({name[:80]})", expected="one file")
    if not name and end is None:
        raise _fault("a header without an end (an empty line)", expected="the voxels behind it")
    encoding = _ENCODINGS.get(fields.get("encoding", "").lower())
    if encoding is None:
        raise _fault(f"encoding {fields.get('encoding')!r}", expected=f"one of {', '.join(_ENCODINGS)}")
    lines, skipped = (_whole(fields, skip, default="0")[0] for skip in ("line skip", "byte skip"))
    if lines < 0 or skipped < -1 or (encoding is Encoding.TEXT and skipped):
        raise _fault(f"line skip {lines} and byte skip {skipped}", expected="at least 0, or -1 for bytes")
    return _header(fields), StoredVoxels(
        path=path.parent / name if name else path,
        encoding=encoding,
        first_byte=0 if name or end is None else end.end(),
        num_lines=lines,
        num_skipped=skipped,
    )


def _fault(found: str, *, expected: str) -> Fault:
    return Fault(found, expected=expected, advice="Write it again, for example with SimpleITK or pynrrd.")


def _fields(text: str) -> dict[str, str]:
    """Return the fields; lines `key:=value` are the user's own."""
    fields = []
    for line in text.splitlines()[1:]:
        name, is_field, value = line.partition(":")
        if is_field and not line.startswith("#") and not value.startswith("="):
            key = name.strip().lower()
            fields.append((_SYNONYMS.get(key, key), value.strip()))
    return fields_once(fields)


def _whole(fields: dict[str, str], name: str, *, default: str | None = None) -> list[int]:
    text = fields.get(name, default)
    try:
        return [int(part) for part in (text or "").split()] or [int("")]
    except ValueError:
        raise _fault(f"{name}: {text!r}", expected="whole numbers") from None


@np.errstate(all="ignore")  # what overflows is found to be none
def _header(fields: dict[str, str]) -> ImageHeader:
    extents = _whole(fields, "sizes")
    if _whole(fields, "dimension") != [len(extents)] or not 1 <= len(extents) <= 16:
        raise _fault(f"dimension {fields['dimension']!r} beside sizes {fields['sizes']!r}", expected="a size for each")
    kinds = fields.get("kinds", " ".join(["domain"] * len(extents))).lower().split()
    if len(kinds) != len(extents):
        raise _fault(f"kinds: {fields['kinds'][:200]}", expected="one for each axis")
    steps = _steps(fields, is_of_space=[kind in _OF_SPACE for kind in kinds])
    spatial = [axis for axis, step in enumerate(steps) if step is not None]
    # Axes of one voxel beside those of space are no axes: of components, of time, of layers of a segmentation.
    kept = [axis for axis, extent in enumerate(extents) if extent != 1 or axis in spatial[:3]]
    if len(kept) > 3 or not set(kept) <= set(spatial):
        values = [axis for axis in kept if axis not in spatial]
        if values == kept:
            raise _fault("directions or distances along none of its axes", expected="those of three axes of space")
        num_values = math.prod(extents[axis] for axis in values)
        raise not_one_volume(tuple(extents[axis] for axis in kept if axis in spatial), num_values=num_values)
    to_lps = np.array(_to_lps(fields))
    origin = _vector(fields.get("space origin", "(0,0,0)"))
    if origin is None:
        raise _fault(f"space origin: {fields['space origin']}", expected="three numbers")
    columns = [step for axis, step in enumerate(steps) if axis in kept and step is not None]
    return volume_header(
        extents=[extents[axis] for axis in kept],
        dtype=_dtype(fields),
        steps=to_lps[:, None] * np.stack(columns, axis=1) if columns else np.zeros((3, 0)),
        origin=(to_lps * origin).tolist(),
        unit=_unit(fields, kept=kept),
    )


def _to_lps(fields: dict[str, str]) -> tuple[float, float, float]:
    space = fields.get("space", "").lower()
    if space not in _TO_LPS:
        raise _fault(f"space: {space[:80]}", expected=f"one of {', '.join(filter(None, _TO_LPS))}")
    for name in ("axis mins", "axis maxs"):
        # Whether that is the centre of the outermost voxel or its side, tools do not agree.
        if name in fields and "space directions" not in fields:
            raise _fault(f"{name}: {fields[name][:80]}", expected="space directions and space origin")
    return _TO_LPS[space]


def _unit(fields: dict[str, str], *, kept: list[int]) -> str:
    """Return the unit of lengths; raises Fault if axes have different ones."""
    in_space = "space directions" in fields
    units = re.findall(r'"([^"]*)"', fields.get("space units" if in_space else "units", ""))
    if not in_space and units:
        units = [units[axis] for axis in kept if axis < len(units)]
    if len(set(units)) > 1:
        raise _fault(f"lengths in different units ({', '.join(units)})", expected="one unit")
    return units[0] if units else "mm"


def _steps(fields: dict[str, str], *, is_of_space: list[bool]) -> list[NDArray[np.float64] | None]:
    """Return the step along each axis, None for those that are not of space."""
    num_axes = len(is_of_space)
    if "space directions" in fields:
        found = re.findall(r"none|\([^)]*\)", fields["space directions"])
        steps = [None if text == "none" else _vector(text) for text in found]
        if len(steps) == num_axes and all(
            step is not None or text == "none" for step, text in zip(steps, found, strict=True)
        ):
            return [step if of_space else None for step, of_space in zip(steps, is_of_space, strict=True)]
        raise _fault(f"space directions: {fields['space directions'][:200]}", expected="three numbers or none, an axis")
    texts = fields.get("spacings", " ".join(["1"] * num_axes)).split()
    try:
        spacings = [float(text) for text in texts]
    except ValueError:
        spacings = []
    if len(spacings) != num_axes:
        raise _fault(f"spacings: {fields['spacings'][:200]}", expected="a number for each axis")
    # NaN stands where an axis has no spacing.
    spaced = [axis for axis, step in enumerate(spacings) if is_of_space[axis] and not math.isnan(step)][:3]
    rows = np.eye(3)
    return [spacings[axis] * rows[spaced.index(axis)] if axis in spaced else None for axis in range(num_axes)]


def _vector(text: str) -> NDArray[np.float64] | None:
    try:
        numbers = [float(part) for part in text.strip().strip("()").split(",")]
    except ValueError:
        return None
    return np.array([*numbers, 0.0][:3]) if len(numbers) in {2, 3} else None


def _dtype(fields: dict[str, str]) -> np.dtype[np.generic]:
    name = fields.get("type", "nothing").lower()
    if name not in _TYPES:
        raise _fault(f"type {name[:80]!r}", expected="integers of 8 to 64 bits, float or double")
    endian = fields.get("endian", "little" if _TYPES[name][1] == "1" else "").lower()
    if endian not in {"little", "big"} and fields.get("encoding", "").lower() not in {"txt", "text", "ascii"}:
        raise _fault(f"numbers of several bytes in no order (endian {endian!r})", expected="little or big")
    return np.dtype((">" if endian == "big" else "<") + _TYPES[name])
