"""The few elements of a DICOM file that say what it is and where it lies; read within limits, as of a stranger."""

import struct
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO

from orchestrator.errors import is_of_a_disk, is_out_of_memory
from orchestrator.images.problem import SourceError
from orchestrator.images.source_file import leads_nowhere, what_is_instead

_MAX_READS = 50_000
"""A header has some hundreds of elements, of two or three reads each; those of private sequences may be thousands."""
_MAX_BYTES = 1 << 26
_MAX_FRAGMENTS = 1 << 16
_HEAD_BYTES = 132
"""Of the preamble and the mark behind it."""
_IN_PLACE = b"version https://git-lfs"
"""What a file begins with that Git LFS has not fetched."""
_UNDEFINED = 0xFFFFFFFF
_ITEM, _END_OF_ITEMS = 0xFFFEE000, 0xFFFEE0DD
_MARK_BYTES = 8
_LONG_VR = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_IMPLICIT, _EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
_DEFLATED, _BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
"""Class of a single slice."""
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
"""The same of MR."""
MODALITIES = {CT_IMAGE: "CT", MR_IMAGE: "MR"}
"""What single slices are of, by their class."""
_AGAIN = "It is damaged or cut short: download it again."
EXPORT = "Export the series again with its original headers."


class Tag(IntEnum):
    """The elements that are read, under the keywords of the standard."""

    MediaStorageSOPClassUID = 0x00020002
    TransferSyntaxUID = 0x00020010
    SpecificCharacterSet = 0x00080005
    ImageType = 0x00080008
    SOPClassUID = 0x00080016
    Modality = 0x00080060
    SeriesDescription = 0x0008103E
    PatientID = 0x00100020
    SeriesInstanceUID = 0x0020000E
    AcquisitionNumber = 0x00200012
    ImagePositionPatient = 0x00200032
    ImageOrientationPatient = 0x00200037
    FrameOfReferenceUID = 0x00200052
    SamplesPerPixel = 0x00280002
    PhotometricInterpretation = 0x00280004
    NumberOfFrames = 0x00280008
    Rows = 0x00280010
    Columns = 0x00280011
    PixelSpacing = 0x00280030
    BitsAllocated = 0x00280100
    BitsStored = 0x00280101
    HighBit = 0x00280102
    PixelRepresentation = 0x00280103
    PixelPaddingValue = 0x00280120
    RescaleIntercept = 0x00281052
    RescaleSlope = 0x00281053
    RescaleType = 0x00281054
    OverlayBitPosition = 0x60000102
    PixelData = 0x7FE00010


_PIXELS = (0x7FE00008, 0x7FE00009, Tag.PixelData)


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelElement:
    """Where the pixels lie in the file."""

    offset: int
    """Of the first byte of the value."""
    num_bytes: int
    """Of the value, as the element says, or from the first fragment to the end of the last one."""
    is_compressed: bool
    """Whether the value is a sequence of fragments."""
    is_last: bool
    """Whether nothing follows in the file."""

    @property
    def end(self) -> int:
        """Offset behind the last byte."""
        return self.offset + self.num_bytes

    @property
    def end_of_element(self) -> int:
        """Offset behind all that belongs to it, the mark at the end of fragments too."""
        return self.end + (_MARK_BYTES if self.is_compressed else 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Elements:
    """What was read of one DICOM file."""

    file: Path
    """The file."""
    transfer_syntax: str
    """UID of the encoding."""
    is_little_endian: bool
    """Order of the bytes of a number."""
    values: Mapping[int, bytes]
    """Tag to value as stored."""
    pixels: PixelElement | None
    """None if there is no PixelData."""

    def text(self, tag: Tag) -> str:
        """Return a value as text that can be shown; empty if there is none."""
        text = self.values.get(tag, b"").decode("latin-1").strip(" \0\t\r\n")
        return "".join(letter if letter.isprintable() else "?" for letter in text)

    def numbers(self, tag: Tag, *, count: int) -> tuple[float, ...]:
        """Return a value that is `count` decimal numbers; raises SourceError if it is not."""
        text = self.text(tag)
        try:
            numbers = tuple(float(part) for part in text.split("\\"))
        except ValueError:
            numbers = ()
        if len(numbers) != count or not all(abs(number) < 1e9 for number in numbers):
            found = f"{tag.name} '{text[:80]}'" if text else f"no {tag.name}"
            raise self.problem(f"a slice with {found}", f"{count} number{'s'[: count > 1]}", advice=EXPORT)
        return numbers

    def whole(self, tag: Tag, *, default: int | None = None) -> int:
        """Return a value that is one unsigned number of 16 bits; raises SourceError if it is not there."""
        value = self.values.get(tag, b"")
        if len(value) == 2:
            return int.from_bytes(value, "little" if self.is_little_endian else "big")
        if default is not None and not value:
            return default
        raise self.problem(f"a slice with {'a damaged' if value else 'no'} {tag.name}", "a whole number")

    def problem(self, found: str, expected: str, *, advice: str = _AGAIN) -> SourceError:
        """Error about this file."""
        return SourceError.of(self.file, found=found, expected=expected, advice=advice)


def unopened(path: Path, error: OSError) -> SourceError:
    """Error about a file or folder that the system does not give out; raises `error` if that is the fault of a disk."""
    if is_of_a_disk(error):
        raise error
    reason = what_is_instead(path) if leads_nowhere(path) else f"what cannot be read ({error.strerror or error})"
    return SourceError.of(
        path,
        found=reason,
        expected="a readable file or folder",
        advice="Check its permissions and its disk.",
    )


def read_whole(file: Path, *, num_bytes: int) -> bytes:
    """Read a file whose header said that it has so many bytes at least; raises SourceError if it cannot be."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise unopened(file, error) from error
    if len(content) < num_bytes:
        raise SourceError.of(
            file, found="a file that was cut while it was read", expected=f"{num_bytes} bytes", advice=_AGAIN
        )
    return content


def looks_like_dicom(file: Path) -> bool:
    """Whether a file begins as DICOM does, with or without the preamble; raises OSError if it cannot be opened."""
    with file.open("rb") as stream:
        return _start(stream.read(_HEAD_BYTES)) is not None


def looks_like_rest(file: Path) -> bool:
    """Whether a file that is no DICOM may be what is left of one: by a download that failed, or by Git in its place."""
    with file.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    # The preamble is mostly zeros, and never a text.
    is_begun = not head.strip(b"\0") or (len(head) < _HEAD_BYTES and b"\0" in head)
    return is_begun or head.startswith(_IN_PLACE)


def not_dicom(file: Path) -> SourceError:
    """Return the error about a file that should be DICOM."""
    return SourceError.of(
        file,
        found=f"a file of {file.stat().st_size} bytes that is not DICOM",
        expected="a DICOM file",
        advice=_AGAIN,
    )


def _start(head: bytes) -> int | None:
    if head[128:132] == b"DICM":
        return 132
    # Without preamble: the first element is of group 2, of the file, or 8, of the study.
    return 0 if head[:2] in {b"\x02\0", b"\x08\0"} and head[3:4] == b"\0" else None


def read_elements(file: Path, *, modalities: Collection[str]) -> Elements:
    """Read the elements of `Tag` and find the pixels; of a file that says to be no slice of these, nothing else.

    Raises
    ------
    SourceError
        If it cannot be opened, is no DICOM, is cut short within an element, deflated, or nested or long without end.
    """
    try:
        with file.open("rb") as raw:
            return _read(file, raw, modalities=modalities)
    except SourceError:
        raise
    except FileNotFoundError as error:
        raise unopened(file, error) from error
    except EOFError as error:
        raise SourceError.of(
            file, found="a DICOM file cut short within its header", expected="a whole file", advice=_AGAIN
        ) from error
    # Whatever a hostile header makes of its parser: OSError, struct.error, KeyError, RecursionError ...
    except Exception as error:
        if is_of_a_disk(error) or is_out_of_memory(error):
            raise
        reason = "sequences nested hundreds deep" if isinstance(error, RecursionError) else str(error)
        raise SourceError.of(
            file,
            found=f"a DICOM file whose header cannot be read ({reason or type(error).__name__})",
            expected="a header of some hundred elements",
            advice=_AGAIN,
        ) from error


def _read(file: Path, raw: BinaryIO, *, modalities: Collection[str]) -> Elements:
    num_bytes = raw.seek(0, 2)
    raw.seek(0)
    start = _start(raw.read(_HEAD_BYTES))
    if start is None:
        raise not_dicom(file)
    raw.seek(start)
    stream = _Limited(raw)
    values = _elements(stream, is_implicit=False, is_little_endian=True, ends=lambda tag: tag >> 16 != 2)
    head = raw.read(6)
    raw.seek(-len(head), 1)
    is_implicit = not head[4:6].isalpha()
    syntax = values.get(Tag.TransferSyntaxUID, b"").decode("latin-1").strip(" \0")
    syntax = syntax or (_IMPLICIT if is_implicit else _EXPLICIT)
    if values.get(Tag.MediaStorageSOPClassUID):
        values[Tag.SOPClassUID] = values[Tag.MediaStorageSOPClassUID]
    elements = Elements(
        file=file, transfer_syntax=syntax, is_little_endian=syntax != _BIG_ENDIAN, values=values, pixels=None
    )
    sop_class = elements.text(Tag.SOPClassUID)
    if sop_class and MODALITIES.get(sop_class) not in modalities:
        return elements
    if syntax == _DEFLATED:
        raise elements.problem(
            "a deflated DICOM file", "a plain or JPEG-compressed one", advice="Expand it, for example with dcmconv."
        )
    little = elements.is_little_endian
    for _ in range(2):
        # The character set is passed over: the reader would warn of names of sets that it does not know.
        values |= _elements(stream, is_implicit=is_implicit, is_little_endian=little, ends=_is_passed_over)
        tag, length = _next(stream, is_implicit=is_implicit, is_little_endian=little)
        if tag != Tag.SpecificCharacterSet:
            break
        raw.seek(length, 1)
    if raw.tell() > num_bytes:
        raise EOFError
    pixels = _pixels(elements, raw, length=length, num_bytes=num_bytes) if tag == Tag.PixelData else None
    return Elements(file=file, transfer_syntax=syntax, is_little_endian=little, values=values, pixels=pixels)


def _is_passed_over(tag: int) -> bool:
    return tag == Tag.SpecificCharacterSet or tag in _PIXELS


class _Limited:
    """A file of which only so much is read: pydicom follows sequences of undefined length to their end."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._num_reads = self._num_bytes = 0
        self.seek, self.tell = raw.seek, raw.tell

    def read(self, size: int) -> bytes:
        data = self._raw.read(min(size, _MAX_BYTES))
        self._num_reads += 1
        self._num_bytes += len(data)
        if self._num_reads > _MAX_READS or self._num_bytes > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_READS} reads or {_MAX_BYTES >> 20} MiB before the pixels")
        return data


def _elements(
    stream: _Limited, *, is_implicit: bool, is_little_endian: bool, ends: Callable[[int], bool]
) -> dict[int, bytes]:
    from pydicom.dataelem import RawDataElement
    from pydicom.filereader import data_element_generator

    found = data_element_generator(
        stream,  # type: ignore[arg-type]
        is_implicit,
        is_little_endian,
        stop_when=lambda tag, _vr, _length: ends(int(tag)),
        specific_tags=list(Tag),
    )
    values = {}
    for element in found:
        if isinstance(element, RawDataElement) and isinstance(element.value, bytes):
            if len(element.value) < element.length != _UNDEFINED:
                raise EOFError
            values[int(element.tag)] = element.value
    return values


def _next(stream: _Limited, *, is_implicit: bool, is_little_endian: bool) -> tuple[int, int]:
    """Tag and length of the next element, (0, 0) at the end of the file."""
    order = "<" if is_little_endian else ">"
    head = stream.read(8)
    if len(head) < 8:
        return 0, 0
    group, number, length = struct.unpack(order + "HHL", head)
    if not is_implicit:
        (length,) = (
            struct.unpack(order + "L", stream.read(4))
            if head[4:6] in _LONG_VR
            else struct.unpack(order + "H", head[6:])
        )
    return group << 16 | number, length


def _pixels(elements: Elements, raw: BinaryIO, *, length: int, num_bytes: int) -> PixelElement:
    offset = raw.tell()
    if length != _UNDEFINED:
        if offset + length > num_bytes:
            raise elements.problem(
                f"a slice cut short: {num_bytes - offset} bytes of pixels", f"{length} bytes as its header says"
            )
        is_last = offset + length == num_bytes
        return PixelElement(offset=offset, num_bytes=length, is_compressed=False, is_last=is_last)
    end = offset
    for _ in range(_MAX_FRAGMENTS):
        raw.seek(end)
        head = raw.read(8)
        group, number, length = struct.unpack("<HHL", head) if len(head) == 8 else (0, 0, 0)
        tag = group << 16 | number
        if tag == _END_OF_ITEMS:
            is_last = end + _MARK_BYTES == num_bytes
            return PixelElement(offset=offset, num_bytes=end - offset, is_compressed=True, is_last=is_last)
        end += 8 + length
        if tag != _ITEM or end > num_bytes:
            break
    raise elements.problem(
        f"a slice cut short: compressed pixels that do not end within its {num_bytes} bytes", "a whole file"
    )
