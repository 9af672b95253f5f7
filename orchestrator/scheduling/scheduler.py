"""What to start next and where, when to try again, when to give up, who is preempted: decisions only.

No Ray, no files and no clock: who calls says what has happened and when, and carries out what is decided.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from orchestrator.cluster.config import MIN_PREEMPTION_GAIN_S
from orchestrator.scheduling.critical_path import CriticalPaths
from orchestrator.scheduling.ended import FailureKind
from orchestrator.scheduling.expectations import Expectations
from orchestrator.scheduling.outcomes import Outcomes
from orchestrator.scheduling.placement import Attempt, Running, Situation, Start, expansions, slots
from orchestrator.scheduling.queue import ReadyQueue, Urgency
from orchestrator.scheduling.rebalancing import LOOKS_PER_GAIN, Rebalance, rebalance
from orchestrator.scheduling.reservations import Reservations
from orchestrator.scheduling.resources import Node, Processors, ResourceRequest
from orchestrator.scheduling.retries import FailureCounts, GiveUp, NodeRecords, Retry
from orchestrator.scheduling.training_need import Needs, check_fits
from orchestrator.workflow.graph import Graph, Stage
from orchestrator.workflow.keys import StageKey, StageKind

RESTART_S = 90.0
"""Time from the order to stop until the training that follows fits again: checkpoint, imports, patches, plan."""


class Schedule:
    """The state of a run and its decisions: of all stages that can start, the one with the longest way to go is next.

    The length of the way is the predicted duration of the stage and of the longest chain that waits for it, so long
    trainings start first, on the fastest GPUs, and what feeds them goes before what does not. Trainings come last where
    they share CPUs with what feeds others: only for a training whose patches are there can another be preempted.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        done: Iterable[StageKey],
        nodes: Iterable[Node],
        needs: Needs,
        to_come: Iterable[Node] = (),
        min_gain_s: float = MIN_PREEMPTION_GAIN_S,
    ) -> None:
        """Begin with the stages of `done`; every other stage on which nothing depends will be carried out.

        Parameters
        ----------
        graph
            Stages by key.
        done
            Stages whose products exist.
        nodes
            What the cluster offers.
        needs
            What each stage takes.
        to_come
            Of each kind of machine that may join later one; `nodes` may be empty then.
        min_gain_s
            How much longer than a running training a waiting one must need so that the former is preempted.
        """
        self.graph = graph
        self.processors = Processors(nodes)
        self.outcomes = Outcomes(graph, done=done)
        self.attempts: dict[StageKey, int] = {}
        self.records = NodeRecords()
        self.to_come = tuple(to_come)
        known = [*self.processors.nodes.values(), *self.to_come]
        self.expectations = Expectations(graph, nodes=known, restart_s=RESTART_S)
        self.needs = replace(needs)  # it will be changed
        check_fits(self.needs, known)
        self._min_gain_s = min_gain_s
        self.running = Running(graph, processors=self.processors, expectations=self.expectations)
        self._failures = FailureCounts()
        self._revived: list[StageKey] = []
        self._reservations = Reservations(self.processors, need=lambda key: self.needs.of(graph[key]))
        self._looked_s = self._next_look_s = 0.0
        self._ready = ReadyQueue()
        self.require(())

    def withhold(self, results: Iterable[StageKey]) -> None:
        """Before anything is started: do nothing for some results until they are required."""
        self.outcomes, self._ready = Outcomes(self.graph, done=self.outcomes.done, withheld=results), ReadyQueue()
        self.require(())

    def require(self, results: Iterable[StageKey]) -> list[StageKey]:
        """Carry out what leads to results that were withheld; returns the stages that were not needed before."""
        further = self.outcomes.require(results)
        self._critical_paths = CriticalPaths(self.graph, dependents=self.outcomes.dependents)
        self._trainings = [key for key in self.outcomes.needed if self.graph[key].kind is StageKind.TRAIN]
        for key in filter(self.outcomes.can_start, further):
            self._put(key)
        return further

    @property
    def is_over(self) -> bool:
        """Whether nothing runs and nothing can be started any more."""
        return not self.running and not self._ready and not self._reservations

    def demand(self) -> Counter[int]:
        """Return what runs, and what could run if there were room, as `missing_machines` takes it."""
        keys = [*self.running, *self._ready.ids(), *self._reservations.waiting]
        return Counter(self.needs.num_workers(self.graph[key]) for key in keys)

    def start_next(self, now_s: float) -> Start | None:
        """Return the most urgent stage that can start and finds room, marked as running; None if there is none now."""
        self._end_quarantines(now_s)
        for key in filter(self.outcomes.can_start, self._ready.due(now_s)):
            self._put(key)
        for key in self._reservations.granted():
            if key in self._reservations.waiting:
                return self._start(key, node=self._reservations.use(key), now_s=now_s)
        found = self._ready.take_first(self._allocate)
        return self._start(found[0], node=found[1], now_s=now_s) if found else None

    def finish(self, key: StageKey, *, now_s: float, node: str | None = None) -> None:
        """Take note that a running stage is done, and where it really ran if that is known better than by its start."""
        attempt = self._release(key)
        self._reservations.drop(key)
        self.records.succeeded(node or attempt.node, key, on_gpu=attempt.need.gpus > 0)
        node_there, elapsed_s = self.running.node(attempt.node), now_s - attempt.since_s
        alone_s = elapsed_s * attempt.need.pace
        self.expectations.finished(key, elapsed_s=alone_s, attempt=self.attempts[key], node=node_there)
        if self.waiting_network() is None:
            # Somebody may want a faster slot that is idle now.
            self._next_look_s = min(self._next_look_s, max(now_s, self._looked_s + self._min_gain_s / LOOKS_PER_GAIN))
        for ready in self.outcomes.finish(key):
            # What was lost is made again while others that read it run, or wait before another attempt.
            if ready not in self.running and not self._ready.is_delayed(ready):
                self._put(ready)

    def fail(
        self, key: StageKey, *, kind: FailureKind, now_s: float, node: str | None = None, lost: Sequence[StageKey] = ()
    ) -> Retry | GiveUp:
        """Take note that a running stage has failed and decide what follows.

        Parameters
        ----------
        key
            Which one.
        kind, now_s
            Why, and when.
        node
            Where it really ran, if that is known better than by its start.
        lost
            Stages, those before others that need them, whose products it has not found: they are carried out again.
        """
        attempt = self._release(key)
        self._next_look_s = now_s
        if lost:
            return self._reopen(lost, for_stage=key)
        where = node or attempt.node
        others = (one.id for one in self.processors.nodes.values() if attempt.need.share_of(one))
        failed_stages = self.records.failed(
            where, key, on_gpu=attempt.need.gpus > 0, kind=kind, other_nodes=others, now_s=now_s
        )
        if failed_stages:
            self._quarantine(where, innocent=[failed for failed in failed_stages if failed != key], now_s=now_s)
        # Where every GPU is broken the attempts must end.
        is_excused = key in failed_stages and kind is not FailureKind.GPU
        wait_s = 0.0 if is_excused else self._failures.failed(key, kind=kind)
        if wait_s is None:
            self._reservations.drop(key)
            return GiveUp(blocked=tuple(self.outcomes.give_up(key)))
        if wait_s:
            self._reservations.drop(key)
            self._ready.delay(key, until_s=now_s + wait_s)
        elif not self.outcomes.has_open_dependencies(key):
            self._put(key)
        return Retry(attempt=self.attempts[key] + 1, wait_s=wait_s)

    def _quarantine(self, node_id: str, *, innocent: Iterable[StageKey], now_s: float) -> None:
        """Give nothing to a node for a while, and try again what had failed for good there."""
        self.processors.close(node_id)
        self._drop_reservations_of_lost_nodes(now_s)
        self._revived += (revived := self.outcomes.revive(innocent))
        for key in revived:
            self._put(key)

    def _reopen(self, lost: Sequence[StageKey], *, for_stage: StageKey) -> Retry | GiveUp:
        """Let a stage wait until what it has not found is made again; what is lost again and again is given up."""
        self._reservations.drop(for_stage)
        is_hopeless = not (self.outcomes.failed | self.outcomes.blocked).isdisjoint(lost)
        if is_hopeless or self._failures.failed(for_stage, kind=FailureKind.TRANSIENT) is None:
            return GiveUp(blocked=tuple(self.outcomes.give_up(for_stage)))
        reopened = self.outcomes.reopen(lost)
        self._trainings += [one for one in reopened if self.graph[one].kind is StageKind.TRAIN]
        for dependent in {one for key in reopened for one in self.outcomes.dependents[key]}:
            if dependent in self._ready:
                self._ready.take_out(dependent)
        # Another stage may have had it made again meanwhile.
        for key in filter(self.outcomes.can_start, (*reopened, for_stage)):
            self._put(key)
        return Retry(attempt=self.attempts[for_stage] + 1, reopened=tuple(reopened))

    def take_revived(self) -> list[StageKey]:
        """Return, once, the stages that had failed for good on a node that was found to be broken later."""
        revived, self._revived = self._revived, []
        return revived

    def progress(
        self, key: StageKey, *, fraction: float, whole_s: float | None, now_s: float, node: str | None = None
    ) -> None:
        """Take note how far a running training is.

        Parameters
        ----------
        key
            Which one.
        fraction
            Share that is done and would survive a stop.
        whole_s
            What the whole training would take at the speed of its latest epochs; None if they do not tell.
        now_s
            When.
        node
            Where it really runs, if that is known: of machines of one kind the cluster takes any.
        """
        attempt = self.running.get(key)
        if attempt is None:
            return
        if node:
            self.running.reconcile(node, attempt)
        alone_s = whole_s * attempt.need.pace if whole_s else whole_s
        remaining_s = self.expectations.progressed(
            key, fraction=fraction, whole_s=alone_s, node=self.running.node(attempt.node)
        )
        if remaining_s is not None:
            self._failures.made_progress(key)
            self.records.succeeded(attempt.node, key, on_gpu=attempt.need.gpus > 0)
            attempt.remaining_s, attempt.at_s = remaining_s, now_s

    def requests_to_stop(self, now_s: float) -> list[StageKey]:
        """Return the running trainings that shall be preempted for others now; each is named once."""
        if self.expectations.estimates_changed():
            self._requeue_trainings()
            self._next_look_s = min(self._next_look_s, now_s)
        if now_s < self._next_look_s:
            return []
        for key in self._reservations.without_hope(now_s=now_s, patience_s=self._min_gain_s):
            self._drop_reservation(key)
        situation = self._situation(now_s)
        found = self._rebalance(situation)
        asked = list[StageKey]()
        for move in found.moves:
            asked += self._move(move.training, move.displaced, node=situation.slots[move.slot], now_s=now_s)
        asked += self._expand(now_s)
        is_passing = self._reservations or self.running.beside(self.needs)
        wait_s = min(found.next_look_s, self._min_gain_s) if is_passing else found.next_look_s
        self._looked_s, self._next_look_s = now_s, now_s + wait_s
        return asked

    def _rebalance(self, situation: Situation) -> Rebalance:
        """Return which trainings should move."""
        # What is done stays done unless it is lost; what has failed may be revived.
        self._trainings = [key for key in self._trainings if key not in self.outcomes.done]
        over = self.outcomes.failed | self.outcomes.blocked
        open_keys = [key for key in self._trainings if key not in over and self.needs.may_move(self.graph[key])]
        speeds = [self.running.speed(node_id) * self.needs.of_most.pace for node_id in situation.slots]
        return rebalance(situation.open_trainings(open_keys), speeds, min_gain_s=self._min_gain_s)

    def _move(self, key: StageKey, displaced: StageKey | None, *, node: str, now_s: float) -> list[StageKey]:
        """Keep a slot on a node for a training; returns those that must stop for that."""
        leaving = [one for one in (displaced, key) if one is not None and one in self.running]
        self._reservations.stopping.update(leaving)
        self._reservations.keep(key, node=node, now_s=now_s)
        if key in self._ready:
            self._ready.take_out(key)
            self._reservations.waiting.add(key)
        return leaving

    def _expand(self, now_s: float) -> list[StageKey]:
        """Stop those trainings that more workers would end earlier, once no other one needs the idle GPUs."""
        open_keys = [key for key in self._trainings if key not in self.outcomes.over]
        if self._reservations or self._reservations.stopping or not self.running.keys() >= set(open_keys):
            return []
        left_s = {key: self.remaining_s(key, now_s=now_s) / self.running.pace(key) for key in open_keys}
        running = [(self.graph[key], self.running[key], left_s[key]) for key in open_keys]
        found = expansions(
            running, processors=self.processors, needs=self.needs, min_gain_s=RESTART_S + self._min_gain_s
        )
        for stage, number in found:
            self.needs.expand(stage, number)
            self._reservations.stopping.add(stage.key)
            self._reservations.keep(stage.key, node=self.running[stage.key].node, now_s=now_s)
        return [stage.key for stage, _ in found]

    def _situation(self, now_s: float) -> Situation:
        return Situation(
            slots=slots(self.processors, need=self.needs.of_most, others=self.running.beside(self.needs)),
            running=self.running,
            reservations=self._reservations,
            can_start=self._ready.__contains__,
            is_settled=lambda attempt: now_s - attempt.since_s >= self._min_gain_s,
            remaining_s=lambda key: self.remaining_s(key, now_s=now_s),
            margin=self.expectations.margin,
        )

    def next_wake_s(self) -> float:
        """Return when something may be decided although nothing has happened."""
        return min(self._ready.next_due_s, self._next_look_s, self.records.next_end_s)

    def add_node(self, node: Node, *, now_s: float) -> None:
        """Use one more node."""
        self.processors.add(node)
        self._next_look_s = now_s

    def remove_node(self, node_id: str, *, now_s: float) -> list[StageKey]:
        """Forget a node that is gone; returns the stages that ran there, which must be failed as preempted."""
        self.processors.remove(node_id)
        self._drop_reservations_of_lost_nodes(now_s)
        self._next_look_s = now_s
        return [key for key, attempt in self.running.items() if attempt.node == node_id]

    def drain_node(self, node_id: str, *, now_s: float) -> None:
        """Start nothing more on a node that is about to leave; what runs there goes on."""
        self.processors.close(node_id)
        self._drop_reservations_of_lost_nodes(now_s)
        self._next_look_s = now_s

    def remaining(self) -> list[Stage]:
        """Stages that are neither done nor failed nor blocked, those that run included."""
        over = self.outcomes.over
        return [self.graph[key] for key in self.outcomes.needed if key not in over]

    def remaining_s(self, key: StageKey, *, now_s: float) -> float:
        """Return the predicted seconds, on a GPU of speed 1, until a stage is done."""
        return self.running.remaining_s(key, now_s=now_s)

    def _end_quarantines(self, now_s: float) -> None:
        for node_id in self.records.release(now_s):
            if self.processors.reopen(node_id):
                self._next_look_s = now_s

    def _start(self, key: StageKey, *, node: str, now_s: float) -> Start:
        remaining_s = self.remaining_s(key, now_s=now_s)
        stage, need = self.graph[key], self.needs.of(self.graph[key])
        share = need.share_of(self.processors.node(node))
        assert share is not None, key
        self.running[key] = Attempt(node=node, need=need, remaining_s=remaining_s, at_s=now_s, since_s=now_s)
        self.attempts[key] = self.attempts.get(key, 0) + 1
        return Start(stage=stage, node=node, attempt=self.attempts[key], share=share, num_workers=need.num_workers)

    def _allocate(self, need: ResourceRequest) -> str | None:
        first, waiting = self._ready.first(need), self.waiting_network()
        is_network = need in self.needs.of_networks
        keeps_slots = not is_network and waiting is not None and first in self._critical_paths.up_to_training
        kept = self._node_of_larger(first, need=need) if is_network and first else None
        if kept is None:
            return self.processors.allocate(need, keep_for=waiting if keeps_slots else None)
        self.processors.close(kept)
        found = self.processors.allocate(need)
        self.processors.reopen(kept)
        return found

    def waiting_network(self) -> ResourceRequest | None:
        """Return the largest need of the stages with a network that lack nothing but a slot."""
        return next((need for need in self.needs.of_networks if self._ready.first(need) is not None), None)

    def _node_of_larger(self, first: StageKey, *, need: ResourceRequest) -> str | None:
        """Return the node that a training leaves alone for a more urgent one with more workers: it never would fit."""
        for larger in self.needs.of_networks:
            key = self._ready.first(larger) if larger.num_workers > need.num_workers else None
            if key is not None and self._urgency(key) < self._urgency(first):
                return self.running.first_with_room(larger)
        return None

    def _put(self, key: StageKey) -> None:
        if key in self._reservations:
            self._reservations.waiting.add(key)
            return
        self.needs.shrink(self.graph[key])
        self._ready.put(self.needs.of(self.graph[key]), self._urgency(key))

    def _drop_reservations_of_lost_nodes(self, now_s: float) -> None:
        for key in self._reservations.without_hope(now_s=now_s, patience_s=float("inf")):
            self._drop_reservation(key)

    def _drop_reservation(self, key: StageKey) -> None:
        if self._reservations.drop(key):
            self._put(key)

    def _urgency(self, key: StageKey) -> Urgency:
        return self._critical_paths.urgency(key, remaining_s=lambda: self.remaining_s(key, now_s=0.0))

    def _release(self, key: StageKey) -> Attempt:
        attempt = self.running.pop(key)
        self._reservations.stopping.discard(key)
        self.processors.release(attempt.node, attempt.need)
        self._reservations.grant(attempt.node)
        return attempt

    def _requeue_trainings(self) -> None:
        for key in [one for one in self._ready.ids() if self.graph[one].kind is StageKind.TRAIN]:
            self._put(key)
