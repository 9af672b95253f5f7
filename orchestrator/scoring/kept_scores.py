"""Scores of submissions, kept case by case: what was scored of the same files is not scored again."""

import hashlib
import io
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kernels import FIELDS
from orchestrator.errors import DataError, StorageError
from orchestrator.results.records import ScoreStatus
from orchestrator.scoring.folders import NO_FILE, FolderComparison, FolderScore, columns_of
from orchestrator.scoring.score import NoPrediction
from orchestrator.storage.copies import keeping_copies
from orchestrator.storage.interface import Storage
from orchestrator.storage.local import file_sha256

ABSENT = "absent"
"""In place of the digest of a file that is not there."""
_UNKNOWN = ""
"""In place of the digest of a file that cannot be told from another: it is scored again."""
_ELSEWHERE = (".mhd", ".nhdr")
"""Endings of headers whose voxels are in another file."""
_SCORED_AS, _REFERENCE = b"scored_as", b"reference_sha256"


@dataclass(frozen=True, kw_only=True, slots=True)
class Unusable:
    """A prediction that has no scores."""

    method: str
    case: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class KeptScores:
    """Submissions that are scored case by case, each case a file of rows."""

    comparison: FolderComparison
    methods: tuple[str, ...]
    """Names of its folders of predictions."""
    parts: Storage
    """Where the files of the cases are."""
    folder: str
    """Their folder."""

    @keeping_copies()
    def score(self, case: str) -> list[Unusable]:
        """Score what is new or has changed; returns what has no scores, and why."""
        of_reference = self._digest_of_reference(case)
        found = [self.comparison.prediction(folder, case) for folder in self.comparison.predictions]
        digests = {method: _sha256(file) for method, file in zip(self.methods, found, strict=True)}
        kept = self._read(case, of_reference=of_reference)
        current = _current(kept, digests=digests)
        stale = [method for method in self.methods if method not in current]
        if stale:
            folders = dict(zip(self.methods, self.comparison.predictions, strict=True))
            asked = replace(self.comparison, predictions=tuple(folders[method] for method in stale))
            rows = self._table(asked.score(case), methods=stale, digests=digests)
            kept = _without(kept, stale)
            self._write(case, pa.concat_tables([kept, rows]), of_reference=of_reference)
            kept = pa.concat_tables([kept, rows])
        return _unusable(kept, case=case, methods=self.methods)

    def of_each(self) -> Iterator["KeptScores"]:
        """Yield the same for each submission by itself."""
        for method, comparison in zip(self.methods, self.comparison.of_each(), strict=True):
            yield replace(self, comparison=comparison, methods=(method,))

    def unscored(self, case: str, *, message: str) -> list[Unusable]:
        """Keep why submissions have no scores of a case; they are tried again by the next call."""
        of_reference = self._digest_of_reference(case)
        others = _without(self._read(case, of_reference=of_reference), self.methods)
        rows = self._table(self.comparison.unscored(case, message=message), methods=self.methods, digests={})
        self._write(case, pa.concat_tables([others, rows]), of_reference=of_reference)
        return _unusable(rows, case=case, methods=self.methods)

    def rows(self, cases: Sequence[str]) -> pa.Table:
        """Return the rows of the submissions, case by case; those of cases that were not scored yet are not there."""
        names = pa.array(self.methods, pa.string())
        tables = [self._read(case) for case in cases]
        return pa.concat_tables([table.filter(pc.is_in(table["method"], names)) for table in tables]).drop_columns(
            ["sha256"]
        )

    @cached_property
    def _scored_as(self) -> bytes:
        """Digest of all that the scores of two equal files depend on."""
        asked = self.comparison
        structures = [
            [one.name, one.reference_labels, one.prediction_labels, one.tolerance_mm] for one in asked.structures
        ]
        of_scores = [structures, asked.metrics, asked.dimension, asked.ignored_label, version("nnunet-orchestrator")]
        return hashlib.sha256(json.dumps(of_scores).encode()).hexdigest().encode()

    @cached_property
    def _schema(self) -> pa.Schema:
        texts = [(name, pa.string()) for name in ("method", "case", "structure", "status", "message", "sha256")]
        counts = [(name, pa.int64()) for name in ("num_reference_voxels", "num_predicted_voxels")]
        numbers = [FIELDS[metric] for metric in self.comparison.metrics]
        numbers += ["tolerance_mm", "spacing_z_mm", "spacing_y_mm", "spacing_x_mm"]
        return pa.schema([*texts, *counts, *((name, pa.float64()) for name in numbers)])

    def _table(self, rows: Sequence[FolderScore], *, methods: Sequence[str], digests: dict[str, str]) -> pa.Table:
        """Return rows, folder by folder, with the names of their methods."""
        num = len(self.comparison.structures)
        records = []
        for number, row in enumerate(rows):
            method, score = methods[number // num], row.score
            records.append(
                {
                    "method": method,
                    "case": row.case,
                    "structure": score.structure,
                    **columns_of(score, self.comparison.metrics),
                    "message": score.message.encode(errors="replace").decode(),
                    "sha256": digests.get(method, _UNKNOWN),
                }
            )
        return pa.Table.from_pylist(records, schema=self._schema)

    def _digest_of_reference(self, case: str) -> str:
        try:
            return _sha256(self.comparison.reference.fetch(self.comparison.reference_key.format(case)))
        except (DataError, StorageError, OSError):
            return _UNKNOWN

    def _read(self, case: str, *, of_reference: str | None = None) -> pa.Table:
        """Return what is kept of a case; nothing if it is of another reference, or of scores of another kind."""
        nothing = self._schema.empty_table()
        key = f"{self.folder}/{case}.parquet"
        if of_reference == _UNKNOWN or not self.parts.exists(key):
            return nothing
        try:
            table = pq.read_table(io.BytesIO(self.parts.read_bytes(key)), page_checksum_verification=True)
        except (pa.ArrowException, OSError, ValueError):
            # It is damaged, and made again.
            return nothing
        about = table.schema.metadata or {}
        is_same = about.get(_SCORED_AS) == self._scored_as and table.schema.equals(self._schema)
        if not is_same or (of_reference is not None and about.get(_REFERENCE) != of_reference.encode()):
            return nothing
        return table.replace_schema_metadata(None)

    def _write(self, case: str, table: pa.Table, *, of_reference: str) -> None:
        about = {_SCORED_AS: self._scored_as, _REFERENCE: of_reference.encode()}
        buffer = io.BytesIO()
        pq.write_table(table.replace_schema_metadata(about), buffer, compression="zstd", write_page_checksum=True)
        self.parts.write_bytes(f"{self.folder}/{case}.parquet", buffer.getvalue())


def _sha256(path: Path | NoPrediction) -> str:
    if isinstance(path, NoPrediction):
        return ABSENT if path is NO_FILE else _UNKNOWN
    try:
        if path.name.lower().endswith(_ELSEWHERE) or not path.is_file():
            return _UNKNOWN
        return file_sha256(path)
    except OSError:
        return _UNKNOWN


def _current(kept: pa.Table, *, digests: dict[str, str]) -> set[str]:
    """Return the methods whose rows are of the files that are there; what could not be scored is tried again."""
    current = set()
    for row in (
        kept.select(["method", "sha256", "status"])
        .group_by(["method", "sha256"])
        .aggregate([("status", "distinct")])
        .to_pylist()
    ):
        is_scored = ScoreStatus.MISSING not in row["status_distinct"] or row["sha256"] == ABSENT
        if row["sha256"] != _UNKNOWN and digests.get(row["method"]) == row["sha256"] and is_scored:
            current.add(row["method"])
    return current


def _without(table: pa.Table, methods: Collection[str]) -> pa.Table:
    return table.filter(pc.invert(pc.is_in(table["method"], pa.array(list(methods), pa.string()))))


def _unusable(table: pa.Table, *, case: str, methods: Collection[str]) -> list[Unusable]:
    missing = table.filter(pc.equal(table["status"], str(ScoreStatus.MISSING))).select(["method", "message"])
    reasons = {row["method"]: row["message"] for row in missing.to_pylist() if row["method"] in set(methods)}
    return [Unusable(method=method, case=case, reason=reason) for method, reason in reasons.items()]
