"""MetaImage files (.mha, .mhd): the header is checked and the voxels are read without ITK, which hangs on some."""

import math
import re
from pathlib import Path

import numpy as np

from orchestrator.images.formats.text_header import LARGEST_HEADER, StoredVoxels, fields_once
from orchestrator.images.geometry import TOLERANCE_DRIFT
from orchestrator.images.image_header import ImageHeader, not_one_volume, volume_header
from orchestrator.images.problem import Fault
from orchestrator.images.stored_voxels import Encoding

_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
_SYNONYMS = {
    "position": "offset", "origin": "offset", "rotation": "transformmatrix", "orientation": "transformmatrix",
    "elementbyteordermsb": "binarydatabyteordermsb",
}  # fmt: skip


def parse_metaimage(path: Path) -> tuple[ImageHeader, StoredVoxels]:
    """Read the header of a file; raises Fault."""
    with path.open("rb") as file:
        content = file.read(LARGEST_HEADER)
    # This field ends the header.
    end = re.search(rb"^[ \t]*ElementDataFile[ \t]*=[ \t]*([^\r\n]*?)[ \t]*\r?(?:\n|$)", content, re.MULTILINE)
    if end is None:
        raise _fault("a file without the header of a MetaImage (no ElementDataFile)", expected="a MetaImage")
    fields = _fields(content[: end.start()].decode("utf-8", "replace"))
    header = _header(fields)
    name = end[1].decode("utf-8", "replace")
    if name.upper() == "LIST" or "%" in name:
        raise _fault(f"a header whose voxels are in several files ({name})", expected="one file")
    is_local = name.upper() == "LOCAL"
    encoding = Encoding.ZLIB if _is_true(fields, "compresseddata") else Encoding.RAW
    if fields.get("binarydata", "True").lower() == "false":
        encoding = Encoding.TEXT
    skipped = int(_numbers(fields, "headersize", default="0", num=1)[0])
    # Some count it from the beginning of the file, and some from the end of this header.
    if skipped and (encoding is not Encoding.RAW or (is_local and skipped > 0)):
        raise _fault(f"HeaderSize {skipped} before voxels that are compressed, text or in the same file", expected="0")
    return header, StoredVoxels(
        path=path if is_local else path.parent / name,
        encoding=encoding,
        first_byte=end.end() if is_local else 0,
        num_skipped=skipped,
    )


def _fault(found: str, *, expected: str) -> Fault:
    return Fault(found, expected=expected, advice="Write it again, for example with SimpleITK.")


def _fields(text: str) -> dict[str, str]:
    fields = []
    for line in text.splitlines():
        name, is_field, value = line.partition("=")
        key = name.strip().lower()
        if is_field and key != "comment":
            fields.append((_SYNONYMS.get(key, key), value.strip()))
    return fields_once(fields)


def _is_true(fields: dict[str, str], name: str) -> bool:
    return fields.get(name, "").lower() in {"true", "t", "1", "yes"}


def _numbers(fields: dict[str, str], name: str, *, num: int, default: str = "") -> list[float]:
    text = fields.get(name) or default
    try:
        numbers = [float(part) for part in text.split()]
    except ValueError:
        numbers = []
    if len(numbers) != num or not all(map(math.isfinite, numbers)):
        raise _fault(f"{name} = {text[:80]!r}", expected=f"{num} finite number{'s'[: num != 1]}")
    return numbers


@np.errstate(all="ignore")  # what overflows is found to be none
def _header(fields: dict[str, str]) -> ImageHeader:
    (axes,) = _numbers(fields, "ndims", num=1)
    if not (1 <= axes <= 10 and axes.is_integer()):
        raise _fault(f"NDims = {axes:g}", expected="2 or 3 axes")
    num_axes = int(axes)
    numbers = _numbers(fields, "dimsize", num=num_axes)
    extents = [int(number) if abs(number) < 2**63 and number.is_integer() else 0 for number in numbers]
    spacing = _numbers(
        fields, "elementspacing", num=num_axes, default=fields.get("elementsize", " ".join(["1"] * num_axes))
    )
    origin = _numbers(fields, "offset", num=num_axes, default=" ".join(["0"] * num_axes))
    identity = " ".join(f"{number:g}" for number in np.eye(num_axes).ravel())
    # Its rows are the directions of the axes.
    matrix = np.reshape(_numbers(fields, "transformmatrix", num=num_axes**2, default=identity), (num_axes, num_axes)).T
    (channels,) = _numbers(fields, "elementnumberofchannels", num=1, default="1")
    while num_axes > 3 and extents[num_axes - 1] == 1:
        num_axes -= 1
    if channels != 1 or num_axes not in {2, 3} or min(extents) < 1:
        raise not_one_volume(tuple(extents[:num_axes]), num_values=int(channels))
    lengths = np.linalg.norm(matrix, axis=0)
    if (lengths > 0).all() and not np.allclose(lengths, 1.0, rtol=0, atol=TOLERANCE_DRIFT):
        raise _fault(f"TransformMatrix = {fields['transformmatrix'][:200]!r}", expected="directions of length 1")
    steps = np.zeros((3, num_axes))
    steps[:num_axes] = (matrix / lengths)[:num_axes, :num_axes] * spacing[:num_axes]
    return volume_header(
        extents=extents[:num_axes],
        dtype=_dtype(fields),
        steps=steps,
        origin=(*origin[:num_axes], 0.0)[:3],
        unit=fields.get("distanceunits", "mm"),
        spacing=spacing[:num_axes],
    )


def _dtype(fields: dict[str, str]) -> np.dtype[np.generic]:
    name = fields.get("elementtype", "nothing").upper()
    if name not in _TYPES:
        raise _fault(f"ElementType = {name[:80]}", expected=f"one of {', '.join(_TYPES)}")
    return np.dtype((">" if _is_true(fields, "binarydatabyteordermsb") else "<") + _TYPES[name])
