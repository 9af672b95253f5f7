"""Checkpoints that say themselves whether they are whole: magic bytes, SHA-256, a number, then the state as data."""

import hashlib
import io
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from orchestrator.errors import IntegrityError, SupersededError, TrainingError, is_out_of_memory
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage
from orchestrator.training.plain_state import State

logger = logging.getLogger(__name__)

MAGIC = b"NNCKPT03"
_EARLIER = (b"NNCKPT01", b"NNCKPT02")
"""Held what torch pickles: a program, which runs when it is read."""
_DIGEST_BYTES = hashlib.sha256().digest_size
_NUMBER_BYTES = 8
_FINAL = 0
"""Number in the final checkpoint, which has no order among others."""
_MAX_NUMBER = 2**32


@dataclass(frozen=True, kw_only=True, slots=True)
class _Content:
    """A checkpoint whose digest was compared."""

    number: int
    """Checkpoints of a training are counted from 1, over all attempts."""
    sha256: str
    """Of the number and the state."""
    name: str
    """Of the file."""
    state: memoryview


@dataclass(frozen=True, kw_only=True, slots=True)
class FinalCheckpoint:
    """What is evaluated."""

    state: State
    sha256: str
    """Digest that names it in predictions and results."""


class CheckpointStore:
    """The checkpoints of one training: the last two on the way, and the final one.

    The two are written by turns, so that saving is one write and never touches the newest whole one.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        training_id: str,
        check: Callable[[], None] = lambda: None,
        source: str | None = None,
        keeps_full_state: bool = False,
    ) -> None:
        """Prepare.

        Parameters
        ----------
        storage
            Output location of the run.
        training_id
            Whose checkpoints they are.
        check
            Called before anything is written or removed; raises if this process must not do that any more.
        source
            Stands, as `training_id` does, for a part of a training, perhaps another one, from whose final checkpoint
            this one goes on.
        keeps_full_state
            Whether the final checkpoint keeps the states of the optimiser and of random generators, since the next
            generation resumes from it.
        """
        self.keeps_full_state = keeps_full_state
        self._source = source
        self._storage = storage
        self._training_id = training_id
        self._check = check
        self._slots = run_paths.checkpoint_slots(training_id)
        self._final = run_paths.final_checkpoint(training_id)
        self._number: int | None = None
        """Of the newest whole checkpoint; None as long as nothing was read or saved."""

    def save_latest(self, state: State) -> None:
        """Save the state on the way; the newest whole checkpoint before it is kept."""
        if self._number is None:
            self._survey()
        number = (self._number or 0) + 1
        content = _encoded(state, number=number)
        self._check()
        with self._storage.writing(self._slots[number % 2]) as path:
            path.write_bytes(content)
        self._number = number

    def save_final(self, state: State) -> str:
        """Save what is evaluated and return its SHA-256; the checkpoints on the way there are removed.

        It is never replaced: raises SupersededError if there is one, since predictions may have been made with that.
        """
        content = _encoded(state, number=_FINAL)
        self._check()
        if not self._storage.create_exclusive(self._final, content):
            raise SupersededError(
                f"{self._training_id}: another attempt has saved its final checkpoint meanwhile, which is kept; the "
                "next attempt reports it"
            )
        for slot in self._slots:
            self._storage.delete(slot)
        return content[len(MAGIC) : len(MAGIC) + _DIGEST_BYTES].hex()

    def load_latest(self) -> State | None:
        """Return the newest state that is whole, or None if none was ever saved.

        A damaged one is logged and passed over; raises IntegrityError if all that there are are damaged.
        """
        newest, damage = self._survey()
        if newest is None and damage is not None:
            raise IntegrityError(f"{damage}; no whole one is left: delete it to train from epoch 0") from damage
        return None if newest is None else _loaded(newest, advice="delete it to go on from the one before")

    def load_source(self) -> State | None:
        """Return the state from which the training goes on where it has none of its own; None if it begins.

        Raises TrainingError if it is not there, and IntegrityError if it is damaged.
        """
        if self._source is None:
            return None
        source = CheckpointStore(self._storage, training_id=self._source)
        key = run_paths.final_checkpoint(self._source)
        lost = f"{self._training_id}: goes on from {self._storage.location.rstrip('/')}/{key}"
        if not source.has_final():
            raise TrainingError(f"{lost}, which is not there; expected it as it was. Begin the sweep anew, with --name")
        try:
            return source.load_final().state
        except IntegrityError as error:
            raise IntegrityError(f"{lost}, which is damaged. Begin the sweep anew, with --name") from error

    def has_final(self) -> bool:
        """Whether a final checkpoint is there; it may be damaged."""
        return self._storage.exists(self._final)

    def load_final(self) -> FinalCheckpoint:
        """Return the final checkpoint; raises StorageError if it is not there and IntegrityError if it is damaged."""
        try:
            content = self._read(self._final)
        except IntegrityError as error:
            raise IntegrityError(f"{error}; delete it to train again, from epoch 0") from error
        state = _loaded(content, advice="delete it to train again, from epoch 0")
        return FinalCheckpoint(state=state, sha256=content.sha256)

    def _survey(self) -> tuple[_Content | None, IntegrityError | None]:
        """Return the newest whole checkpoint on the way, and what is wrong with one that is not whole."""
        newest, damage = None, None
        for key in filter(self._storage.exists, self._slots):
            try:
                content = self._read(key)
            except IntegrityError as error:
                logger.warning("%s; looking for the other one", error)
                damage = damage or error
            else:
                newest = content if newest is None or content.number > newest.number else newest
        self._number = newest.number if newest else 0
        return newest, damage

    def _read(self, key: str) -> _Content:
        return _verified(self._storage.read_bytes(key), name=f"{self._storage.location.rstrip('/')}/{key}")


@contextmanager
def fitting(name: str) -> Iterator[None]:
    """Context in which a state is taken over; raises IntegrityError if it is not that of a training of this version."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # What says something of a GPU or of the memory has a class of its own, or words.
        if (isinstance(error, RuntimeError) and type(error) is not RuntimeError) or is_out_of_memory(error):
            raise
        # torch names every tensor that does not fit, on a line of its own.
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise IntegrityError(
            f"{name} does not hold the state of this training ({words:.300}). Where plans or settings were changed "
            "since, change them back; else delete it to train from the one before or, if there is none, from epoch 0"
        ) from error


def check_origin(found: State, *, expected: State, training_id: str) -> None:
    """Raise TrainingError if a checkpoint belongs to another training under the same name."""
    by_default = dict.fromkeys(("trainer", "planner"), "nnU-Net's default")  # where an origin leaves them out
    found = by_default | found
    for key, value in (by_default | expected).items():
        if found[key] != value:
            raise TrainingError(
                f"{training_id}: its checkpoint has {key} {found[key]}; expected {value}. Choose another output or "
                "delete the checkpoint to train from epoch 0"
            )


def _encoded(state: State, *, number: int) -> bytes:
    from orchestrator.training.plain_state import write_state

    buffer = io.BytesIO()
    buffer.write(bytes(len(MAGIC) + _DIGEST_BYTES) + number.to_bytes(_NUMBER_BYTES, "big"))
    write_state(state, buffer)
    digest = hashlib.sha256(buffer.getbuffer()[len(MAGIC) + _DIGEST_BYTES :])
    buffer.seek(0)
    buffer.write(MAGIC + digest.digest())
    # Not a copy as long as nobody writes to the buffer.
    return buffer.getvalue()


def _loaded(content: _Content, *, advice: str) -> State:
    from orchestrator.training.plain_state import read_state

    try:
        return read_state(content.state)
    except IntegrityError as error:
        raise IntegrityError(f"{content.name}: {error}; {advice}") from error


def _verified(content: bytes, *, name: str) -> _Content:
    """Take a file apart; raises IntegrityError, with the name of the file, if it is torn, damaged or too old."""
    if content[: len(MAGIC)] in _EARLIER:
        raise IntegrityError(
            f"{name}: a checkpoint of format {content[: len(MAGIC)].decode()}, which could run any program when it is "
            f"read; expected {MAGIC.decode()}. Finish this training with the version of this project that began it"
        )
    if content[: len(MAGIC)] != MAGIC:
        raise IntegrityError(f"{name}: begins with {content[:8]!r}; expected a checkpoint, which begins with {MAGIC!r}")
    body = memoryview(content)[len(MAGIC) + _DIGEST_BYTES :]
    digest = hashlib.sha256(body)
    if digest.digest() != content[len(MAGIC) : len(MAGIC) + _DIGEST_BYTES]:
        raise IntegrityError(f"{name}: the checksum does not match its {len(body)} bytes: it is torn or damaged")
    number = int.from_bytes(body[:_NUMBER_BYTES], "big")
    if number > _MAX_NUMBER:
        raise IntegrityError(f"{name}: checkpoint number {number} of a training; expected at most {_MAX_NUMBER}")
    return _Content(number=number, sha256=digest.hexdigest(), name=name, state=body[_NUMBER_BYTES:])
