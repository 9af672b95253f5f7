"""Files with changed content and the right checksum of it: what only looks behind the checksum can refuse."""

import hashlib
import json
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator.patches.layout import COLUMNS, HEADER_CRC32_KEY, HEADER_KEY
from orchestrator.training.checkpoint import MAGIC

_NUMBER_BYTES = 8

Rows = list[dict[str, Any]]


def sealed_patches(
    content: bytes,
    *,
    change_header: Callable[[Any], Any] = lambda header: header,
    change_rows: Callable[[list[Rows]], None] = lambda _: None,
) -> bytes:
    """Return a patch file with another header or other rows, and the checksums that they would have.

    `change_header` returns the header as JSON knows it, or bytes in place of JSON; `change_rows` changes the rows of
    the three record batches in place.
    """
    reader = pa.ipc.open_file(pa.BufferReader(content))
    header = change_header(json.loads(reader.schema.metadata[HEADER_KEY]))
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    schema = pa.schema(COLUMNS, metadata={HEADER_KEY: text, HEADER_CRC32_KEY: b"%d" % zlib.crc32(text)})
    batches = [reader.get_batch(index).to_pylist() for index in range(reader.num_record_batches)]
    change_rows(batches)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        for rows in batches:
            for row in rows:
                voxels = np.array(row["voxels"], np.uint16)
                row["crc32"] = zlib.crc32(voxels.tobytes(), zlib.crc32(row["payload"]))
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
    return sink.getvalue().to_pybytes()


def sealed_checkpoint(state: bytes, *, magic: bytes = MAGIC, number: int = 1) -> bytes:
    """Return a checkpoint with its right checksum, whatever it holds."""
    body = number.to_bytes(_NUMBER_BYTES, "big") + state
    return magic + hashlib.sha256(body).digest() + body
