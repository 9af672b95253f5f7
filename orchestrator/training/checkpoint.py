"""Checkpoints that say themselves whether they are whole: magic bytes, SHA-256, then what torch saves."""

import hashlib
import io
import logging
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
        self._latest = run_paths.checkpoint(training_id)
        self._previous = run_paths.previous_checkpoint(training_id)
        self._final = run_paths.final_checkpoint(training_id)

    def save_latest(self, state: dict[str, Any]) -> None:
        """Save the state after an epoch; the checkpoint before it is kept, unless it is damaged."""
        if self._storage.exists(self._latest):
            content = self._storage.read_bytes(self._latest)
            try:
                _verified_body(content, name=self._name(self._latest))
            except IntegrityError as error:
                # Copying it would overwrite the only whole one.
                logger.warning("%s; it is replaced", error)
            else:
                self._storage.write_bytes(self._previous, content)
        self._save(self._latest, state)

    def save_final(self, state: dict[str, Any]) -> str:
        """Save what is evaluated and return its SHA-256; the checkpoints on the way there are removed."""
        digest = self._save(self._final, state)
        self._storage.delete(self._latest)
        self._storage.delete(self._previous)
        return digest

    def load_latest(self) -> dict[str, Any] | None:
        """Return the newest state that is whole, or None if none was ever saved.

        A damaged one is logged and passed over; raises IntegrityError if all that there are are damaged.
        """
        damage: IntegrityError | None = None
        for key in filter(self._storage.exists, (self._latest, self._previous)):
            try:
                return self._load(key)
            except IntegrityError as error:
                logger.warning("%s; looking for the checkpoint before it", error)
                damage = damage or error
        if damage is not None:
            raise IntegrityError(f"{damage}; no whole one is left: delete it to train from epoch 0") from damage
        return None

    def has_final(self) -> bool:
        """Whether a final checkpoint is there; it may be damaged."""
        return self._storage.exists(self._final)

    def load_final(self) -> dict[str, Any]:
        """Return the final state; raises StorageError if it is not there and IntegrityError if it is damaged."""
        return self._load(self._final)

    def final_sha256(self) -> str:
        """Return the digest that `save_final` returned, of a file that is whole; raises as `load_final`."""
        content = self._storage.read_bytes(self._final)
        return hashlib.sha256(_verified_body(content, name=self._name(self._final))).hexdigest()

    def _name(self, key: str) -> str:
        return f"{self._storage.location.rstrip('/')}/{key}"

    def _load(self, key: str) -> dict[str, Any]:
        import torch

        body = _verified_body(self._storage.read_bytes(key), name=self._name(key))
        # Our own file, just verified; optimiser and random states are not plain tensors.
        state: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=False)
        return state

    def _save(self, key: str, state: dict[str, Any]) -> str:
        import torch

        buffer = io.BytesIO()
        torch.save(state, buffer)
        body = buffer.getbuffer()
        digest = hashlib.sha256(body)
        with self._storage.writing(key) as path, path.open("wb") as file:
            file.write(MAGIC + digest.digest())
            file.write(body)
        return digest.hexdigest()


def _verified_body(content: bytes, *, name: str) -> memoryview:
    """Return what torch saved; raises IntegrityError, with the name of the file, if it is torn or damaged."""
    if content[: len(MAGIC)] != MAGIC:
        raise IntegrityError(f"{name}: begins with {content[:8]!r}; expected a checkpoint, which begins with {MAGIC!r}")
    body = memoryview(content)[_HEADER_BYTES:]
    if hashlib.sha256(body).digest() != content[len(MAGIC) : _HEADER_BYTES]:
        raise IntegrityError(f"{name}: the checksum does not match its {len(body)} bytes: it is torn or damaged")
    return body
