"""A cluster on which stages end as a test says, and nothing is carried out."""

from orchestrator.cluster.node_pool import Resources
from orchestrator.scheduling.resources import Node

NODE = Node(id="node", offered=Resources(cpus=4))


class FakeBackend:
    """Whatever runs ends with what `ends` holds for it, at the next look."""

    pools = ()
    nodes = (NODE,)
    dashboard = ""
    is_embedded = True
    idle_s = float("inf")

    def __init__(self, *, pass_time=lambda: None):
        self.ends = {}
        self.running = []
        self.started = []
        self._pass_time = pass_time

    def begin(self, context, *, separate_trainings):
        pass

    def start(self, start, *, nodes, quarantined):
        self.running.append(start.stage.key)
        self.started.append((start.stage.key.text, start.attempt, start.node))

    def wait(self, *, timeout_s):
        self._pass_time()
        ended = [(key, self.ends.pop(key)) for key in self.running if key in self.ends]
        for key, _ in ended:
            self.running.remove(key)
        return ended

    def await_all(self, keys, *, timeout_s):
        pass

    def look_at_nodes(self):
        return None

    def ask_for(self, missing, *, there, quarantined):
        pass

    def waiting(self):
        return {}

    def give_back(self, node_id):
        pass

    def publish(self, snapshot, stage_seconds):
        pass
