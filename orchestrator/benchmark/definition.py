"""What is trained and tested: the carriers of the benchmark, pure data without any file access.

A *training* is one model (task x subtask x source x fold x network). A *label set* is one way in which a case is
labelled; COVID-19-CT-Seg cases have three of them (lung, infection, lung-and-infection).
"""

from dataclasses import dataclass
from typing import Literal

from orchestrator.errors import ConfigError

Network = Literal["3d_fullres", "2d"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Structure:
    """One labelled structure of a label set."""

    name: str
    """`left_lung`, `right_lung` or `infection`."""
    label: int
    """Its value in the label map, at least 1."""
    tolerance_mm: float
    """Tolerance of the normalised surface Dice (NSD)."""

    def __post_init__(self) -> None:
        if self.label < 1:
            raise ConfigError(f"structure {self.name}: label {self.label}; expected an integer of at least 1")
        if not self.tolerance_mm >= 0:
            raise ConfigError(f"structure {self.name}: tolerance_mm {self.tolerance_mm}; expected at least 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelSet:
    """The structures that one kind of label map holds."""

    name: str
    """`lung`, `infection` or `lung-and-infection`."""
    structures: tuple[Structure, ...]
    """In the order of their labels 1, 2, ..."""

    def structure(self, name: str) -> Structure:
        """Return the structure of that name; raises ConfigError if this label set has none."""
        for structure in self.structures:
            if structure.name == name:
                return structure
        raise ConfigError(
            f"label set {self.name}: no structure {name!r}; expected one of {[s.name for s in self.structures]}"
        )


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Case:
    """One CT volume of one data set."""

    dataset: str
    """Name of the data set, for example `covid-19-ct-seg`."""
    name: str
    """Name within the data set as in the published splits, for example `coronacases_001`."""

    @property
    def id(self) -> str:
        """`<dataset>/<name>`, unique in the benchmark and usable as a relative path."""
        return f"{self.dataset}/{self.name}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """One labelled data set, as one of the public downloads holds it."""

    name: str
    """`covid-19-ct-seg`, `structseg-lung`, `structseg-gtv`, `nsclc-lung`, `nsclc-pe`, `msd-lung-tumour` or `mosmed`."""
    title: str
    """As the paper's tables print it."""
    download: str
    """The public download it comes from: `covid-19-ct-seg`, `structseg`, `nsclc`, `msd` or `mosmed`."""
    label_sets: tuple[str, ...]
    """Names of the label sets that its cases have."""
    case_names: tuple[str, ...]
    """Every case that the benchmark uses, sorted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSet:
    """Cases on which one training is scored."""

    name: Literal["val", "test", "test-mosmed"]
    """`val` is in the training's own domain, `test` is COVID-19-CT-Seg, `test-mosmed` is MosMed."""
    label_set: str
    """Label set of the reference masks."""
    structures: tuple[str, ...]
    """Names of the structures that are scored; both the reference and the training's label set have them."""
    cases: tuple[Case, ...]
    """In the order of the published split."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """One model to be trained, with every case it sees and every case it is scored on."""

    task: int
    """1 few-shot learning, 2 domain generalisation, 3 knowledge transfer."""
    subtask: str
    """`lung`, `infection` or `lung-and-infection`; also the name of its label set."""
    source: str
    """Short name of the source of its training cases: `covid`, `structseg`, `nsclc`, `msd` or `nsclc-pe`."""
    split: Literal["20-80", "80-20"]
    """Share of COVID-19-CT-Seg cases for training and testing; only task 1 has `80-20`."""
    fold: int
    """From 0."""
    network: Network
    """Configuration of nnU-Net."""
    train: tuple[Case, ...]
    """Cases the weights are fitted to."""
    val: tuple[Case, ...]
    """In-domain validation cases; empty in task 1."""
    evaluation_sets: tuple[EvaluationSet, ...]
    """What the final checkpoint is scored on."""
    num_published_cases: int
    """Number of train + val + test cases before a preset capped them."""

    @property
    def group(self) -> str:
        """The id without its fold, for example `T1-lung`, `T2-infection-nsclc-pe` or `T1-lung-2d`."""
        parts = [f"T{self.task}", self.subtask]
        if self.task > 1:
            parts.append(self.source)
        if self.split == "80-20":
            parts.append("80-20")
        if self.network == "2d":
            parts.append("2d")
        return "-".join(parts)

    @property
    def id(self) -> str:
        """Unique and usable as a file name: `T1-lung-fold0`."""
        return f"{self.group}-fold{self.fold}"

    @property
    def is_capped(self) -> bool:
        """Whether a preset left out cases of the published split."""
        return len(self.train) + len(self.val) + sum(len(s.cases) for s in self.evaluation_sets if s.name != "val") < (
            self.num_published_cases
        )

    @property
    def cases(self) -> tuple[Case, ...]:
        """Every case of the training, each once, sorted."""
        evaluated = {case for evaluation in self.evaluation_sets for case in evaluation.cases}
        return tuple(sorted({*self.train, *self.val, *evaluated}))

    @property
    def plan_donor(self) -> str | None:
        """Id of the task-1 training whose patch size and network this one takes over; None for task 1 itself."""
        if self.task == 1:
            return None
        suffix = "-2d" if self.network == "2d" else ""
        return f"T1-{self.subtask}{suffix}-fold{self.fold}"
