"""What is expected of the stages of a run: the time that each still needs, learned while the run goes on."""

from collections import defaultdict
from collections.abc import Iterable

from orchestrator.scheduling.durations import Durations, Expectation
from orchestrator.scheduling.resources import Node
from orchestrator.workflow.graph import Graph
from orchestrator.workflow.keys import StageKey, StageKind

MARGIN = 0.05
"""Share by which an unseen training counts as longer before it starts: without, makespans were up to 4 % longer."""
NEWS = 0.1
"""Share of new observations from which on the order of waiting trainings is made anew."""


class Expectations:
    """Times of stages: of trainings on a GPU of speed 1, of all others as they are."""

    def __init__(self, graph: Graph, *, nodes: Iterable[Node], restart_s: float) -> None:
        """Begin with what the graph expects.

        Parameters
        ----------
        graph
            Stages by key.
        nodes
            Those that are there or may come: their GPUs have the speeds with which learning begins.
        restart_s
            What it costs a training to go on.
        """
        expected = {
            stage.key: Expectation(
                seconds=stage.expected_s, group=stage.training.group if stage.training else stage.key.text
            )
            for stage in graph.values()
            if stage.kind is StageKind.TRAIN
        }
        speeds = {node.kind: node.speed for node in nodes if node.kind}
        self._graph = graph
        self._restart_s = restart_s
        self._durations = Durations(expected, speeds=speeds)
        self._fractions: dict[StageKey, float] = {}
        self._elapsed_s: defaultdict[StageKind, float] = defaultdict(float)
        self._expected_s: defaultdict[StageKind, float] = defaultdict(float)
        self._voxels = self._expected_voxels = 0
        self._version = 0

    def remaining_s(self, key: StageKey) -> float:
        """Return what a stage that does not run still needs."""
        stage = self._graph[key]
        if stage.kind is not StageKind.TRAIN:
            expected_s = self._expected_s[stage.kind]
            # Of what has not been done yet it is known how large the images are: it takes about as many times longer.
            size = self._voxels / self._expected_voxels if self._expected_voxels else 1.0
            return stage.expected_s * (self._elapsed_s[stage.kind] / expected_s if expected_s else size)
        whole_s = self._durations.predict_s(key)
        return whole_s * (1 - self._fractions.get(key, 0.0)) + min(self._restart_s, 0.01 * whole_s)

    def margin(self, key: StageKey) -> float:
        """Return the share by which a training that waits may turn out to be longer."""
        return 0.0 if self._durations.is_seen(key) else MARGIN

    def speed(self, node: Node) -> float:
        """Return the speed of the GPUs of a node as far as it has shown."""
        return self._durations.speed(node.kind) if node.kind else node.speed

    def progressed(self, key: StageKey, *, fraction: float, whole_s: float | None, node: Node | None) -> float | None:
        """Learn from the epochs of a training.

        Parameters
        ----------
        key
            Which one.
        fraction
            Share that is done.
        whole_s
            What the whole training would take like this; None if that is not known.
        node
            Where; None if the node is gone.

        Returns
        -------
        float or None
            What it still needs; None if that is no news.
        """
        if fraction <= self._fractions.get(key, 0.0):
            return None
        self._fractions[key] = fraction
        if node is not None and whole_s:
            self._durations.observe(key, kind=node.kind, seconds=whole_s)
        return self._durations.predict_s(key) * (1 - fraction)

    def measured(self, key: StageKey, *, voxels: int) -> None:
        """Learn how large the image is that a stage has made; 0 says nothing."""
        if voxels:
            self._voxels += voxels
            self._expected_voxels += self._graph[key].voxels

    def finished(self, key: StageKey, *, elapsed_s: float, attempt: int, node: Node | None) -> None:
        """Learn from a stage that is done; a training that was interrupted has told more by its epochs."""
        kind = self._graph[key].kind
        if kind is not StageKind.TRAIN:
            self._elapsed_s[kind] += elapsed_s
            self._expected_s[kind] += self._graph[key].expected_s
        elif attempt == 1 and elapsed_s > 0 and node is not None:
            self._durations.observe(key, kind=node.kind, seconds=elapsed_s)

    def estimates_changed(self) -> bool:
        """Return, once, whether so much was learned that the order of what waits may have changed."""
        if self._durations.version <= (1 + NEWS) * self._version:
            return False
        self._version = self._durations.version
        return True
