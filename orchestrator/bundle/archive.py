"""The zip of a bundle: the same files are the same bytes, and each byte that is another one is found."""

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from orchestrator.bundle import names
from orchestrator.bundle.differences import first_difference
from orchestrator.errors import DataError
from orchestrator.inference.exporting import packed
from orchestrator.inference.unpacking import opened_zip

MOST_BYTES = 2 * 2**30
_WHAT = "a sealed bundle"
_LOCAL_HEADER_BYTES = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """A bundle as it was read."""

    files: Mapping[str, bytes]
    sha256: str
    """Of the zip: its seal."""
    problems: tuple[str, ...]
    """What is not as it was written, a line each."""


def archive_of(files: Mapping[str, bytes]) -> bytes:
    """Return the zip of a bundle; the manifest is added."""
    return packed({**files, names.MANIFEST: manifest(files)})


def manifest(files: Mapping[str, bytes]) -> bytes:
    """Return the digests of all files, as `sha256sum --check` reads them."""
    lines = [f"{sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files) if name != names.MANIFEST]
    return "".join(lines).encode()


def read_archive(path: Path) -> Archive:
    """Return the files of a zip, whatever became of it.

    Its bytes are compared with those that these files would be packed to, so that no byte between them is another one.

    Raises
    ------
    DataError
        For what is no zip, is too large, was packed anew by another program, or has names that lead elsewhere, links,
        or two files of one name.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{path}: {path.stat().st_size} bytes; expected at most {MOST_BYTES} of {_WHAT}")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected {_WHAT}") from error
    files: dict[str, bytes] = {}
    problems: list[str] = []
    with opened_zip(path, what=_WHAT, most_bytes=lambda _: MOST_BYTES) as (_, members):
        pass
    if len(members) > 1 and all(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise DataError(
            f"{path}: packed anew by another program, which has compressed all {len(members)} files; expected the zip "
            "as it was sealed: its bytes are what is verified"
        )
    for member in members:
        # A bundle is stored as it is. What zipfile would refuse to read is read here too, to tell what became of it.
        start = member.header_offset + _LOCAL_HEADER_BYTES + len(member.filename.encode())
        files[member.filename] = content[start : start + member.file_size]
        if member.compress_type != zipfile.ZIP_STORED or len(files[member.filename]) != member.file_size:
            problems.append(f"{member.filename}: not stored as a bundle stores its files")
    problems += _structure(content, files, members=members)
    problems += _against_manifest(files)
    return Archive(files=files, sha256=sha256(content).hexdigest(), problems=tuple(problems))


def _structure(content: bytes, files: Mapping[str, bytes], *, members: list[zipfile.ZipInfo]) -> Iterator[str]:
    """Yield which byte of the zip is not the one that these files are packed to."""
    expected = packed(files)
    if content == expected:
        return
    place = first_difference(content, expected)
    before = [member.filename for member in members if member.header_offset <= place]
    near = f"at the header of {before[-1]}" if before else "before the first file"
    yield f"byte {place} of the zip, {near}: not as a bundle is packed ({len(content)} bytes, expected {len(expected)})"


def _against_manifest(files: Mapping[str, bytes]) -> Iterator[str]:
    """Yield which files are not what the manifest says."""
    if names.MANIFEST not in files:
        yield f"{names.MANIFEST}: missing"
        return
    listed: dict[str, str] = {}
    for number, line in enumerate(files[names.MANIFEST].decode(errors="replace").splitlines(), start=1):
        digest, separator, name = line.partition("  ")
        if not separator or name in listed:
            yield f"{names.MANIFEST}: line {number}: {line[:100]!r}; expected a digest and the name of a file, once"
        listed[name] = digest
    for name in sorted({*listed, *files} - {names.MANIFEST}):
        if name not in files:
            yield f"{name}: missing; {names.MANIFEST} lists it"
        elif name not in listed:
            yield f"{name}: added; {names.MANIFEST} does not list it"
        elif sha256(files[name]).hexdigest() != listed[name]:
            yield f"{name}: changed; its SHA-256 is not that of {names.MANIFEST}"
    if "".join(f"{digest}  {name}\n" for name, digest in sorted(listed.items())).encode() != files[names.MANIFEST]:
        yield f"{names.MANIFEST}: not as a bundle writes it; expected a line for each file, in the order of their names"
