"""The central results store: one immutable Parquet file a training, created once, queried with DuckDB."""

import hashlib
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.errors import ConfigError, IntegrityError
from orchestrator.results.records import CaseScore, Provenance, ResultRow
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage

if TYPE_CHECKING:
    import pandas

SCHEMA_VERSION = b"2"

SCHEMA = pa.schema(
    [
        ("training_id", pa.string()),
        ("group", pa.string()),
        ("fold", pa.int64()),
        ("configuration", pa.string()),
        ("evaluation_set", pa.string()),
        ("dataset", pa.string()),
        ("case", pa.string()),
        # CaseScore
        ("structure", pa.string()),
        ("status", pa.string()),
        ("dsc", pa.float64()),
        ("nsd", pa.float64()),
        ("hd95_mm", pa.float64()),
        ("assd_mm", pa.float64()),
        ("reference_ml", pa.float64()),
        ("predicted_ml", pa.float64()),
        ("tolerance_mm", pa.float64()),
        ("spacing_mm", pa.list_(pa.float64(), 3)),
        ("num_reference_voxels", pa.int64()),
        ("num_predicted_voxels", pa.int64()),
        ("message", pa.string()),
        # Provenance
        ("preset", pa.string()),
        ("seed", pa.int64()),
        ("versions", pa.string()),
        ("data_sha256", pa.string()),
        ("split_sha256", pa.string()),
        ("plan_sha256", pa.string()),
        ("checkpoint_sha256", pa.string()),
        ("phantoms", pa.bool_()),
        ("is_capped", pa.bool_()),
        ("train_elapsed_s", pa.float64()),
    ],
    metadata={b"results_schema_version": SCHEMA_VERSION},
)
"""One row a structure of a scored case: the columns of ResultRow, CaseScore and Provenance side by side, the volumes of
the structure in both masks, and behind them a column for each facet of the training, a text or a whole number, and for
each further metric of the study, a fraction.

A score that there is not is null, and so is a distance to an empty mask: SQL leaves it out of averages, where one NaN
or infinity would make all of them so.
"""
_DIGEST_KEY = b"rows_sha256"
"""Of the metadata: Parquet's own checksums are of pages, not of what says which page is which column."""
_SCORES = ("dsc", "nsd", "hd95_mm", "assd_mm")
_FACET_TYPES = (pa.string(), pa.int64())
_FURTHER_TYPE = pa.float64()


class ResultsStore:
    """All committed rows of one output location."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def commit(self, training_id: str, rows: Sequence[ResultRow]) -> bool:
        """Commit every row of a training at once; False, and nothing written, if it was committed before.

        Raises IntegrityError if there are no rows or one is of another training: a file is never corrected later.
        """
        others = sorted({row.training_id for row in rows} - {training_id})
        if not rows or others:
            found = f"rows of {', '.join(others)}" if others else "no rows"
            raise IntegrityError(f"{run_paths.results(training_id)}: {found}; expected every row of {training_id}")
        buffer = io.BytesIO()
        table = to_table(rows)
        table = table.replace_schema_metadata({**SCHEMA.metadata, _DIGEST_KEY: _digest(table)})
        # Without checksums of its pages half of all changed bytes in such a file are read as other scores.
        pq.write_table(table, buffer, write_page_checksum=True)
        return self._storage.create_exclusive(run_paths.results(training_id), buffer.getvalue())

    def finished(self) -> set[str]:
        """Return the ids of the trainings whose rows are committed."""
        keys = run_paths.own_keys(self._storage, run_paths.RESULTS)
        return {key.rpartition("/")[2].removesuffix(".parquet") for key in keys}

    def read(self) -> pa.Table:
        """Return all rows, ordered by training; none if no training of a run is finished.

        Raises ConfigError where no run has been started, and IntegrityError for a file that is not ours or is damaged.
        """
        tables = [self._read_one(run_paths.results(training_id)) for training_id in sorted(self.finished())]
        if not (tables or run_paths.own_keys(self._storage, run_paths.EVENTS)):
            raise ConfigError(
                f"{self._storage.location}: no results, and no run has been started there; expected the --output of one"
            )
        # Not every training has every facet.
        return pa.concat_tables(tables, promote_options="default") if tables else SCHEMA.empty_table()

    def read_trials(self) -> pa.Table:
        """Return the rows of the trials of all sweeps of the run, their settings as columns, its name as `sweep`.

        Raises IntegrityError as `read` does.
        """
        tables = [SCHEMA.append(pa.field("sweep", pa.string())).empty_table()]
        for key in run_paths.own_keys(self._storage, run_paths.SWEEPS):
            table = self._read_one(key)
            name = key.removeprefix(f"{run_paths.SWEEPS}/").partition("/")[0]
            tables.append(table.append_column("sweep", pa.array([name] * len(table))))
        return pa.concat_tables(tables, promote_options="default")

    def first_row(self, training_id: str) -> ResultRow:
        """Return one of the rows of a training, all of which have the same facets and further metrics.

        Raises IntegrityError as `read` does.
        """
        return from_table(self._read_one(run_paths.results(training_id)).slice(0, 1))[0]

    def to_pandas(self) -> "pandas.DataFrame":
        """Return all rows as `read` does, as `to_frame` has them."""
        return to_frame(self.read())

    def query(self, sql: str) -> pa.Table:
        """Return the answer of DuckDB to a query over the tables `scores` and `trials`, of `read` and `read_trials`.

        Raises as `read` does, and ConfigError, with DuckDB's message, for a query that it refuses.
        """
        with duckdb.connect() as connection:
            # What is not asked for is not read: of a bucket, all files of the sweeps would be listed.
            for name, read in (("scores", self.read), ("trials", self.read_trials)):
                if name in sql.lower():
                    connection.register(name, read())
            try:
                answer = connection.sql(sql)
            except duckdb.Error as error:
                raise ConfigError(f"query {sql!r}: {error}") from error
            if answer is None:
                raise ConfigError(f"query {sql!r}: answers nothing; expected a SELECT")
            return answer.to_arrow_table()

    def _read_one(self, key: str) -> pa.Table:
        training_id = key.rpartition("/")[2].removesuffix(".parquet")
        where = f"{self._storage.location}/{key}"
        content = io.BytesIO(self._storage.read_bytes(key))
        try:
            # The schema first: what is not ours need not be decoded.
            _check_schema(pq.read_schema(content), where=where)
            table = pq.read_table(content, page_checksum_verification=True)
            table.validate(full=True)
        # A cut or changed page is an OSError to pyarrow; names and texts that are none are a ValueError.
        except (pa.ArrowException, OSError, ValueError) as error:
            raise IntegrityError(f"{where}: not a readable Parquet file ({error}). Delete it to score again") from error
        lacking = [name for name in SCHEMA.names if name not in _SCORES and table[name].null_count]
        if lacking:
            raise IntegrityError(
                f"{where}: rows without {', '.join(lacking)}; expected all of it. Delete it to score again"
            )
        others = sorted(set(table["training_id"].to_pylist()) - {training_id})
        if others:
            raise IntegrityError(f"{where}: rows of {', '.join(others)}; expected those of {training_id}. Delete it")
        if table.schema.metadata.get(_DIGEST_KEY) != _digest(table):
            raise IntegrityError(f"{where}: rows that do not have their checksum. Delete it to score again")
        return table.replace_schema_metadata(SCHEMA.metadata)


def _digest(table: pa.Table) -> bytes:
    rows = json.dumps([table.schema.names, table.to_pylist()])
    return hashlib.sha256(rows.encode()).hexdigest().encode()


def _check_schema(schema: pa.Schema, *, where: str) -> None:
    """Raise IntegrityError unless a file has the version and the columns of this store."""
    version = (schema.metadata or {}).get(b"results_schema_version", b"none")
    if version != SCHEMA_VERSION:
        raise IntegrityError(
            f"{where}: results of schema version {version.decode(errors='replace')}; expected "
            f"{SCHEMA_VERSION.decode()}. Read it with the version of this project that wrote it"
        )
    if list(schema)[: len(SCHEMA)] != list(SCHEMA) or not all(map(_is_known, schema)):
        found = sorted(f"{field.name} {field.type}" for field in schema if not _is_known(field))
        expected = sorted(f"{field.name} {field.type}" for field in SCHEMA if field not in list(schema))
        raise IntegrityError(
            f"{where}: columns {found} in place of {expected}; expected those "
            f"of schema version {SCHEMA_VERSION.decode()}. Delete it to score again"
        )


def _is_known(field: pa.Field) -> bool:
    """Whether a column is one of the store, or may be a facet or a further metric."""
    return field in list(SCHEMA) if field.name in SCHEMA.names else field.type in (*_FACET_TYPES, _FURTHER_TYPE)


def _further(schema: pa.Schema) -> list[str]:
    """Return the columns of further metrics."""
    return [field.name for field in schema if field.name not in SCHEMA.names and field.type == _FURTHER_TYPE]


def _without_nan(table: pa.Table) -> pa.Table:
    """Return a table whose scores are finite numbers or null."""
    for name in (*_SCORES, *_further(table.schema)):
        column = table[name]
        numbers = pc.if_else(pc.is_finite(column), column, pa.scalar(None, pa.float64()))
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), numbers)
    return table


def to_table(rows: Sequence[ResultRow]) -> pa.Table:
    """Return rows as a table of the store's schema, with a column for each of their facets and further metrics."""
    facets = [
        pa.field(name, _type_of(name, rows)) for name in dict.fromkeys(name for row in rows for name in row.facets)
    ]
    names = dict.fromkeys(name for row in rows for name in row.further)
    further = [pa.field(name, _FURTHER_TYPE) for name in names]
    schema = pa.schema([*SCHEMA, *facets, *further], metadata=SCHEMA.metadata)
    records = []
    for row in rows:
        record = {**row.facets, **row.further, **asdict(row), **asdict(row.score), **asdict(row.provenance)}
        voxel_ml = math.prod(row.score.spacing_mm) / 1000
        record["reference_ml"] = row.score.num_reference_voxels * voxel_ml
        record["predicted_ml"] = row.score.num_predicted_voxels * voxel_ml
        records.append({name: record.get(name) for name in schema.names})
    return _without_nan(pa.Table.from_pylist(records, schema=schema))


def to_frame(table: pa.Table) -> "pandas.DataFrame":
    """Return a table for pandas; whole numbers that some rows lack, as of a facet of some trainings, are `Int64`."""
    import pandas

    frame = table.to_pandas()
    for field in table.schema:
        if pa.types.is_integer(field.type) and table[field.name].null_count:
            # pandas itself would make 1 and nothing 1.0 and NaN: not the numbers of the study, in a file least of all.
            frame[field.name] = table[field.name].to_pandas(types_mapper={field.type: pandas.Int64Dtype()}.get)
    return frame


def _type_of(facet: str, rows: Sequence[ResultRow]) -> pa.DataType:
    is_text = any(isinstance(row.facets.get(facet), str) for row in rows)
    return pa.string() if is_text else pa.int64()


def from_table(table: pa.Table) -> list[ResultRow]:
    """Return the rows of a table of the store's schema."""
    further = _further(table.schema)
    facets = [name for name in table.schema.names[len(SCHEMA) :] if name not in further]
    of_row = [name for name in ResultRow.__dataclass_fields__ if name in SCHEMA.names]
    rows = []
    for record in table.to_pylist():
        score = {name: record[name] for name in CaseScore.__dataclass_fields__ if name in record}
        score["spacing_mm"] = tuple(score["spacing_mm"])
        score |= {name: math.nan for name in _SCORES if score[name] is None}
        rows.append(
            ResultRow(
                facets={name: record[name] for name in facets if record[name] is not None},
                further={name: math.nan if record[name] is None else record[name] for name in further},
                score=CaseScore(**score),
                provenance=Provenance(**{name: record[name] for name in Provenance.__dataclass_fields__}),
                **{name: record[name] for name in of_row},
            )
        )
    return rows
