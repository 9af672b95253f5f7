"""Checkpoints that say themselves whether they are whole: magic bytes, SHA-256, then what torch saves."""

import hashlib
import io
import logging
from pathlib import Path
from typing import Any

from orchestrator.errors import IntegrityError
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import Storage

logger = logging.getLogger(__name__)

MAGIC = b"NNCKPT01"
_HEADER_BYTES = len(MAGIC) + hashlib.sha256().digest_size


class CheckpointStore:
    """The checkpoints of one training: the latest, the one before it, and the final one."""

    def __init__(self, storage: Storage, *, training_id: str) -> None:
        self._storage = storage
        self._training_id = training_id

    def save_latest(self, state: dict[str, Any]) -> None:
        """Save the state after an epoch; the checkpoint before it is kept."""
        latest, previous = run_paths.checkpoint(self._training_id), run_paths.previous_checkpoint(self._training_id)
        if self._storage.exists(latest):
            self._storage.write_bytes(previous, self._storage.read_bytes(latest))
        self._save(latest, state)

    def save_final(self, state: dict[str, Any]) -> str:
        """Save what is evaluated and return its SHA-256; the checkpoints on the way there are removed."""
        digest = self._save(run_paths.final_checkpoint(self._training_id), state)
        self._storage.delete(run_paths.checkpoint(self._training_id))
        self._storage.delete(run_paths.previous_checkpoint(self._training_id))
        return digest

    def load_latest(self) -> dict[str, Any] | None:
        """Return the newest state that is whole, or None if there is none; a damaged one is logged and passed over."""
        for key in (run_paths.checkpoint(self._training_id), run_paths.previous_checkpoint(self._training_id)):
            if not self._storage.exists(key):
                continue
            try:
                return read_checkpoint(self._storage.fetch(key))
            except IntegrityError as error:
                logger.warning("%s: %s; going on with the checkpoint before it", self._training_id, error)
        return None

    def load_final(self) -> dict[str, Any]:
        """Return the final state; raises StorageError if it is not there and IntegrityError if it is damaged."""
        return read_checkpoint(self._storage.fetch(run_paths.final_checkpoint(self._training_id)))

    def _save(self, key: str, state: dict[str, Any]) -> str:
        import torch

        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        digest = hashlib.sha256(content)
        with self._storage.writing(key) as path, path.open("wb") as file:
            file.write(MAGIC + digest.digest())
            file.write(content)
        return digest.hexdigest()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the state in a checkpoint file; raises IntegrityError if it is torn or damaged."""
    import torch

    content = path.read_bytes()
    if content[: len(MAGIC)] != MAGIC:
        raise IntegrityError(f"{path}: begins with {content[:8]!r}; expected a checkpoint, which begins with {MAGIC!r}")
    body = content[_HEADER_BYTES:]
    if hashlib.sha256(body).digest() != content[len(MAGIC) : _HEADER_BYTES]:
        raise IntegrityError(f"{path}: its checksum does not match its {len(body)} bytes: it is torn or damaged")
    # Our own file, just verified; optimiser and random states are not plain tensors.
    state: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=False)
    return state
