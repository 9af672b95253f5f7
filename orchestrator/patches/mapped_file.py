"""An Arrow IPC file in memory, of which only the pages that are looked at come from the disk."""

import mmap
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator.errors import IntegrityError

MAGIC = b"ARROW1"
EDGE_BYTES = 1 << 17
"""Of the file's begin, which holds the tables, and of its end: read at once when it is opened."""
MAX_GAP_BYTES = 1 << 15
"""Between two parts that are read ahead as one."""


class MappedFile:
    """The batches of a file in their order.

    They are read as a stream from the file's begin: Arrow's reader of files looks at the end first, in a thread of its
    own, for which a loaded machine lets it wait longer than the disk does.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.buffer = pa.py_buffer(self._map)
        size = self.buffer.size
        self.read_ahead(np.array([0, max(0, size - EDGE_BYTES)]), np.array([min(size, EDGE_BYTES), size]))
        if self._map[: len(MAGIC)] != MAGIC or self._map[-len(MAGIC) :] != MAGIC:
            raise IntegrityError("it does not begin and end as an Arrow file")
        # The begin is padded to eight bytes.
        self._stream = pa.ipc.open_stream(self.buffer.slice(8))
        self.schema: pa.Schema = self._stream.schema

    def next_batch(self) -> pa.RecordBatch:
        """Return the next record batch, as views; raises IntegrityError if there is none."""
        try:
            return self._stream.read_next_batch()
        except StopIteration as error:
            raise IntegrityError("a record batch is missing") from error

    def offset(self, buffer: pa.Buffer) -> int:
        """Return where in the file a buffer begins; raises IntegrityError if it is not a part of the file.

        Arrow expands buffers that a file says are compressed, to any size; ours are not.
        """
        first = int(buffer.address - self.buffer.address) if buffer.size else 0
        if not 0 <= first <= self.buffer.size - buffer.size:
            raise IntegrityError("a buffer that lies elsewhere than in the file")
        return first

    def read_ahead(self, first: NDArray[np.int64], last: NDArray[np.int64]) -> None:
        """Ask the system to read parts of the file at once; page by page, each would wait for the disk.

        Parts that lie close together are joined: fewer, longer reads.
        """
        if not hasattr(mmap, "MADV_WILLNEED"):
            return
        begins = np.flatnonzero(np.concatenate([[True], first[1:] > last[:-1] + MAX_GAP_BYTES]))
        ends = np.concatenate([begins[1:], [len(first)]]) - 1
        for a, b in zip(first[begins].tolist(), last[ends].tolist(), strict=True):
            page = a // mmap.PAGESIZE * mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, page, b - page)
