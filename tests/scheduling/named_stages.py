"""Stages by whatever name a test gives them: the schedule compares keys and reads nothing from them but the kind."""

from orchestrator.workflow.keys import StageKind


class Name(str):
    """Stands for a StageKey."""

    __slots__ = ("kind",)
    case = None

    def __new__(cls, text: str, kind: StageKind) -> "Name":
        name = super().__new__(cls, text)
        name.kind = kind
        return name

    @property
    def text(self) -> str:
        return str(self)

    @property
    def training(self) -> str:
        return self.partition(" ")[2]
