"""Changes of a bundle: a byte, a row, a cell or a file is another, perhaps with all digests made anew."""

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from orchestrator.bundle import names
from orchestrator.bundle.archive import archive_of
from orchestrator.inference.exporting import packed
from orchestrator.results.store import ResultsStore, from_table
from orchestrator.storage import run_paths
from orchestrator.storage.memory import MemoryStorage

Files = dict[str, bytes]
_NUMBER = re.compile(rb"(?<=[ ,|&>])\d+\.\d+(?=[ ,|&<\n(\\])")
_FIGURE = re.compile(rb"<(svg|style).*?</\1>", re.DOTALL)
_SEPARATOR = re.compile(rb"[|&,]|</t[dh]>")
_OTHER_SEPARATORS = {b"|": b",", b"&": b",", b",": b"|", b"</td>": b"</th>", b"</th>": b"</td>"}
_SHARED = ("scores.csv", "summary.json", "report.md", "leaderboard.csv", "ranks.csv", "tables.tex")


def repacked(files: Files, target: Path, *, with_digests: bool) -> Path:
    """Write files as a bundle; `with_digests` makes manifest and crate say what they are now."""
    changed = dict(files)
    if with_digests:
        changed[names.CRATE] = _redescribed(changed)
        target.write_bytes(archive_of(changed))
    else:
        target.write_bytes(packed(changed))
    return target


def _redescribed(files: Files) -> bytes:
    """Return the crate with the sizes and digests of the files that are there."""
    crate = json.loads(files[names.CRATE])
    for entity in crate["@graph"]:
        if entity["@type"] == "File" and entity["@id"] in files:
            content = files[entity["@id"]]
            entity |= {"contentSize": str(len(content)), "sha256": sha256(content).hexdigest()}
    return (json.dumps(crate, indent=1) + "\n").encode()


def change_byte(files: Files, target: Path, random: np.random.Generator) -> str:
    """Change, remove or add a byte of the zip itself."""
    content = bytearray(packed(files))
    place = int(random.integers(len(content)))
    match random.integers(4):
        case 0:
            del content[place]
        case 1:
            content.insert(place, int(random.integers(256)))
        case _:
            content[place] ^= int(random.integers(1, 256))
    target.write_bytes(content)
    return f"byte {place}"


def change_file(files: Files, target: Path, random: np.random.Generator) -> str:
    """Change a byte of a file, take one away, add or rename one, exchange two; with and without new digests."""
    changed = dict(files)
    name = str(random.choice(sorted(set(files) - {names.MANIFEST, names.CRATE})))
    match random.integers(5):
        case 0:
            del changed[name]
        case 1:
            name = f"{name.rpartition('/')[0] or 'more'}/another.txt"
            changed[name] = b"new\n"
        case 2:
            changed[f"{name}.old"] = changed.pop(name)
        case 3:
            other = str(random.choice(sorted(set(files) - {name, names.MANIFEST, names.CRATE})))
            changed[name], changed[other] = changed[other], changed[name]
            name = f"{name} {other}"
        case _:
            content = bytearray(changed[name])
            content[int(random.integers(len(content)))] ^= int(random.integers(1, 256))
            changed[name] = bytes(content)
    repacked(changed, target, with_digests=bool(random.integers(2)))
    return name


def change_row(files: Files, target: Path, random: np.random.Generator) -> str:
    """Change, take away or repeat a row of the scores, with its checksum and all digests made anew."""
    changed = dict(files)
    name = str(random.choice([name for name in files if name.startswith("results/")]))
    rows = from_table(pq.read_table(io.BytesIO(files[name])))
    place = int(random.integers(len(rows)))
    row = rows[place]
    match random.integers(4):
        case 0:
            del rows[place]
        case 1:
            rows.append(row)
        case 2:
            rows[place] = replace(row, case=f"{row.case}9")
        case _:
            field = str(random.choice(["dsc", "nsd", "hd95_mm", "num_predicted_voxels"]))
            value = 7777 if field.startswith("num") else float(random.uniform(0.1, 0.9))
            rows[place] = replace(row, score=replace(row.score, **{field: value}))
    target_store = MemoryStorage("rows")
    training = name.removeprefix("results/").removesuffix(".parquet")
    ResultsStore(target_store).commit(training, rows)
    changed[name] = target_store.files[name]
    repacked(changed, target, with_digests=True)
    # What is calculated of the rows is what they are now; the list that was sealed names the one that is another.
    return f"{run_paths.REPORT}/scores.csv"


def change_cell(files: Files, target: Path, random: np.random.Generator) -> str:
    """Change a number of a table or of the report in a digit that counts, with all digests made anew."""

    def with_other_digit(number: bytes) -> bytes:
        return str((int(number[:1]) + int(random.integers(1, 10))) % 10).encode() + number[1:]

    return _change_spot(files, target, random, pattern=_NUMBER, change=with_other_digit)


def change_form(files: Files, target: Path, random: np.random.Generator) -> str:
    """Write a number, a separator, the table of all scores or the manifest otherwise, with all digests made anew."""
    changed = dict(files)
    match random.integers(4):
        case 0:
            forms = [lambda n: b" " + n, lambda n: n + b"0", lambda n: n + b"e+00", lambda n: n[:-1] + b"_" + n[-1:]]
            form = forms[int(random.integers(len(forms)))]
            return _change_spot(files, target, random, pattern=_NUMBER, change=form)
        case 1:
            return _change_spot(files, target, random, pattern=_SEPARATOR, change=_OTHER_SEPARATORS.__getitem__)
        case 2:
            name = f"{run_paths.REPORT}/scores.parquet"
            table, buffer = pq.read_table(io.BytesIO(files[name])), io.BytesIO()
            note = {b"note": b"3d is better"}
            match random.integers(3):
                case 0:
                    pq.write_table(table, buffer, compression="snappy")
                case 1:
                    pq.write_table(table, buffer, compression="zstd", use_dictionary=False)
                case _:
                    pq.write_table(table.replace_schema_metadata(note), buffer, compression="zstd")
            changed[name] = buffer.getvalue()
            repacked(changed, target, with_digests=True)
        case _:
            name = names.MANIFEST
            lines = files[name].splitlines(keepends=True)
            place = int(random.integers(1, len(lines)))
            changed[name] = b"".join([*lines[place:], *lines[:place]])
            repacked(changed, target, with_digests=False)
    return name


def _change_spot(
    files: Files,
    target: Path,
    random: np.random.Generator,
    *,
    pattern: re.Pattern[bytes],
    change: Callable[[bytes], bytes],
) -> str:
    """Change what fits a pattern at one place of the tables or of the report, outside of figures."""
    changed = dict(files)
    tables = [name for name in files if name.startswith("tables/") or name.endswith(_SHARED) or name.endswith(".html")]
    tables = [name for name in tables if pattern.search(_FIGURE.sub(b"", files[name]))]
    name = str(random.choice(tables))
    content = files[name]
    figures = [found.span() for found in _FIGURE.finditer(content)]
    spots = [
        found.span()
        for found in pattern.finditer(content)
        if not any(start <= found.start() < end for start, end in figures)
    ]
    start, end = spots[int(random.integers(len(spots)))]
    changed[name] = content[:start] + change(content[start:end]) + content[end:]
    repacked(changed, target, with_digests=True)
    return name


CHANGES: dict[str, Callable[[Files, Path, np.random.Generator], str]] = {
    "byte": change_byte,
    "row": change_row,
    "cell": change_cell,
    "form": change_form,
    "file": change_file,
}
"""Kind to what changes a bundle; returns the files in which, or the byte at which something is another."""
