"""What a stage is known by: its kind, and the training, case or label set that it is for.

Events, names of files, the Ray dashboard and people know a stage by a text. Here alone that text is made and read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.benchmark.definition import Case


class StageKind(StrEnum):
    """A step of the pipeline."""

    DOWNLOAD = "download"
    """Generate one phantom download (real downloads are already there)."""
    INGEST = "ingest"
    """Turn the image of one case of a download into ours."""
    LABELS = "labels"
    """Turn one mask of a case into a label map of ours; others of the case may be bad."""
    FINGERPRINT = "fingerprint"
    """Measure one training case as nnU-Net does."""
    PLAN = "plan"
    """Make the nnU-Net plans of one training."""
    PREPROCESS = "preprocess"
    """Preprocess one case for one training into an Arrow patch file."""
    TRAIN = "train"
    """Fit one model."""
    VALIDATE = "validate"
    """Predict the validation cases of an ensemble of which members are still to be chosen."""
    ENSEMBLE = "ensemble"
    """Say of which models an ensemble is."""
    PREDICT = "predict"
    """Predict every evaluation case of one training, or of one ensemble."""
    SCORE = "score"
    """Score the predictions of one training and commit its rows."""

    @property
    def uses_network(self) -> bool:
        """Whether it computes with a network: on a GPU where there is one."""
        return self in {StageKind.TRAIN, StageKind.VALIDATE, StageKind.PREDICT}


_PARTS: Mapping[StageKind, tuple[str, ...]] = {
    StageKind.DOWNLOAD: ("download",),
    StageKind.INGEST: ("case",),
    StageKind.LABELS: ("case", "label_set"),
    StageKind.FINGERPRINT: ("case", "label_set"),
    StageKind.PLAN: ("training",),
    StageKind.PREPROCESS: ("training", "case"),
    StageKind.TRAIN: ("training",),
    StageKind.VALIDATE: ("training",),
    StageKind.ENSEMBLE: ("training",),
    StageKind.PREDICT: ("training",),
    StageKind.SCORE: ("training",),
}
"""What the key of a stage of each kind has, in the order of its text."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StageKey:
    """Which stage: unique in a run, and the same in every call of it."""

    kind: StageKind
    download: str = ""
    """Folder of the download."""
    training: str = ""
    """Id of the training."""
    case: Case | None = None
    label_set: str = ""
    text: str = field(init=False, repr=False)
    """Of events and files, and for people: `preprocess kidney-fold0 clinic/case_3`."""

    def __post_init__(self) -> None:
        parts = {"download": self.download, "training": self.training, "label_set": self.label_set}
        parts["case"] = self.case.id if self.case else ""
        given = {name for name, part in parts.items() if part}
        if given != set(_PARTS[self.kind]):
            raise ValueError(f"{self.kind.value} of {sorted(given)}; expected {', '.join(_PARTS[self.kind])}")
        object.__setattr__(self, "text", " ".join([self.kind.value, *(parts[name] for name in _PARTS[self.kind])]))

    # By the text, which is made once: a schedule of ten thousand stages looks them up all the time.
    def __eq__(self, other: object) -> bool:
        return self.text == other.text if isinstance(other, StageKey) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.text)

    def __lt__(self, other: "StageKey") -> bool:
        return self.text < other.text

    def __str__(self) -> str:
        return self.text

    @classmethod
    def score_of(cls, training_id: str) -> "StageKey":
        """Return the stage with which a training ends."""
        return cls(kind=StageKind.SCORE, training=training_id)

    @classmethod
    def parse(cls, text: str) -> "StageKey | None":
        """Return the key that has this text; None for none, as in the events of another version."""
        word, _, rest = text.partition(" ")
        if word not in set(StageKind):
            return None
        names = _PARTS[StageKind(word)]
        values = rest.split(" ", maxsplit=len(names) - 1)
        if len(values) != len(names) or not all(values):
            return None
        parts = dict(zip(names, values, strict=True))
        dataset, _, name = parts.pop("case", "").partition("/")
        if "case" in names and not (dataset and name):
            return None
        case = Case(dataset=dataset, name=name) if name else None
        return cls(kind=StageKind(word), case=case, **parts)
