"""Trainings that are preempted, and the slots that are kept for those for which they are."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from orchestrator.scheduling.resources import Processors, ResourceRequest
from orchestrator.workflow.keys import StageKey


@dataclass(kw_only=True, slots=True)
class Reservation:
    """A slot that is kept for one stage."""

    node: str
    since_s: float
    is_granted: bool = False
    """Whether the slot is free and taken for it."""


class Reservations:
    """Who was asked to stop, and for whom a slot is kept on which node."""

    def __init__(self, processors: Processors, *, need: Callable[[StageKey], ResourceRequest]) -> None:
        """Begin with nobody.

        Parameters
        ----------
        processors
            Where slots are taken and given back.
        need
            Gives that of a training.
        """
        self._processors = processors
        self._need = need
        self._by_stage: dict[StageKey, Reservation] = {}
        self.stopping: set[StageKey] = set()
        """Trainings that run and were asked to stop."""
        self.waiting: set[StageKey] = set()
        """Trainings that lack nothing but the slot that is kept for them."""

    def __contains__(self, key: StageKey) -> bool:
        return key in self._by_stage

    def __len__(self) -> int:
        return len(self._by_stage)

    def node_of(self, key: StageKey) -> str | None:
        """Return the node that is kept for a training, free or not yet."""
        kept = self._by_stage.get(key)
        return kept.node if kept else None

    def is_awaited(self, node: str) -> bool:
        """Whether somebody waits for a slot on a node that is not free yet."""
        return any(kept.node == node and not kept.is_granted for kept in self._by_stage.values())

    def keep(self, key: StageKey, *, node: str, now_s: float) -> None:
        """Keep a slot on a node for a training as soon as it is free."""
        self._by_stage[key] = Reservation(node=node, since_s=now_s)
        self.grant(node)

    def grant(self, node: str) -> None:
        """Take what has become free on a node for those for whom it is kept."""
        for key, kept in self._by_stage.items():
            if kept.node == node and not kept.is_granted and self._processors.has_room(node, self._need(key)):
                self._processors.take(node, self._need(key))
                kept.is_granted = True

    def granted(self) -> Iterator[StageKey]:
        """Yield the trainings whose slot is free."""
        yield from [key for key, kept in self._by_stage.items() if kept.is_granted]

    def use(self, key: StageKey) -> str:
        """Return the node of a granted slot, which the training takes over."""
        self.waiting.discard(key)
        return self._by_stage.pop(key).node

    def drop(self, key: StageKey) -> bool:
        """Keep nothing for a training any more; returns whether it was waiting for that slot."""
        kept = self._by_stage.pop(key, None)
        if kept is not None and kept.is_granted:
            self._processors.release(kept.node, self._need(key))
            self.grant(kept.node)
        was_waiting = key in self.waiting
        self.waiting.discard(key)
        return was_waiting

    def without_hope(self, *, now_s: float, patience_s: float) -> Iterable[StageKey]:
        """Return the trainings whose node is gone, or whose slot has not become free for long.

        One that was itself asked to stop is given the time that it takes to.
        """
        late = [
            key for key, kept in self._by_stage.items() if not kept.is_granted and now_s - kept.since_s > patience_s
        ]
        gone = [key for key, kept in self._by_stage.items() if not self._processors.has(kept.node)]
        return dict.fromkeys([*gone, *(key for key in late if key not in self.stopping)])
