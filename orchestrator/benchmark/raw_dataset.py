"""What a data set in nnU-Net's raw layout says of itself, as far as a study must know it, and whether both agree."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.benchmark.definition import LabelSet
from orchestrator.configuration import expect_known
from orchestrator.errors import ConfigError

_DESCRIPTION = "dataset.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class RawDataset:
    """What is in `dataset.json`, and which cases there are."""

    folder: str
    """`DatasetNNN_Name`."""
    channels: tuple[str, ...]
    """Names of the images of a case, in their order."""
    labels: Mapping[str, tuple[int, ...]]
    """Structure to its value in the label maps, or to those of its region; without background."""
    regions_class_order: tuple[int, ...] = ()
    """What a prediction writes for each region; empty if no structure is a region."""
    ignored_label: int | None = None
    """Value of voxels that nobody has annotated."""
    cases: tuple[str, ...] = ()
    """Those of `imagesTr` with a label map, sorted."""
    test_cases: tuple[str, ...] = field(default=())
    """Those of `imagesTs` with a label map in `labelsTs`, sorted."""
    num_slices: int = 0
    """Of a typical case, roughly, as 512 x 512 voxels each; 0 if nothing tells."""
    file_ending: str = ".nii.gz"
    """Of images and label maps."""
    reader: str = "SimpleITKIO"
    """nnU-Net's class that reads them."""

    @property
    def values(self) -> tuple[int, ...]:
        """Every value of its label maps, sorted; without background and what is ignored."""
        return tuple(sorted({value for values in self.labels.values() for value in values}))


Describe = Callable[[str], RawDataset]
"""Returns what the data set in a folder says of itself; raises an error of ours if it is not there or not readable."""


def label_values(
    label_set: LabelSet, raw: RawDataset | None, *, named: Mapping[str, int], where: str
) -> dict[int, int]:
    """Return what each value of a data set's masks becomes in a label set: by the names of its structures.

    Parameters
    ----------
    label_set
        If it has regions, or nothing is known of the data set, the masks have the labels of the study.
    raw
        None where the study says everything.
    named
        Structure to its value, where the data set has another name for it.
    where
        The data set, for messages.

    Raises
    ------
    ConfigError
        If a name is unknown, or two structures have one value.
    """
    expect_known(named, [one.name for one in label_set.structures], where=f"{where}.values", what="structure")
    if label_set.has_regions and named:
        raise ConfigError(
            f"{where}.values: label set {label_set.name} has regions, and masks have its labels; expected none"
        )
    if label_set.has_regions or raw is None:
        labels = [label for label in label_set.labels if label != label_set.ignored_label]
        values = {named.get(_name_of(label, label_set), label): label for label in labels}
        if len(values) < len(labels):
            raise ConfigError(f"{where}.values: two structures have one value by {dict(named)}; expected one for each")
        return values
    return dict.fromkeys(raw.values, 0) | _values_by_name(label_set, raw, named=named, where=where)


def check_values(
    values: Mapping[int, int], label_set: LabelSet, raw: RawDataset, *, named: Mapping[str, int], where: str
) -> None:
    """Raise ConfigError where a study and a data set say different things of the masks."""
    told = f"{raw.folder}/{_DESCRIPTION}"
    used = {value for value, label in values.items() if label and label != label_set.ignored_label}
    if unknown := sorted(used - set(raw.values)):
        raise ConfigError(
            f"{where}: label set {label_set.name} takes value {unknown[0]} from masks; {told} has "
            f"{', '.join(map(str, raw.values))}"
        )
    advice = "" if label_set.has_regions else ", or say under `values` what it is called"
    for structure in label_set.structures:
        own = sorted(value for value, label in values.items() if label in structure.labels)
        theirs = sorted(set(raw.labels.get(structure.name, own)))
        if structure.name not in named and own != theirs:
            raise ConfigError(
                f"{where}: {structure.name} is {_listed(own)} of the masks by label set {label_set.name} and "
                f"{_listed(theirs)} by {told}; mend the one that is wrong{advice}"
            )


def check_channels(channels: Sequence[str], raw: RawDataset, *, where: str) -> None:
    """Raise ConfigError if a study has the channels of a data set in another order.

    Other names are no error: a study says by them how nnU-Net is to normalise an image.
    """
    first, second = ([name.casefold() for name in names] for names in (channels, raw.channels))
    if first != second and sorted(first) == sorted(second):
        raise ConfigError(
            f"{where}.channels: {', '.join(channels)}; expected the order of the files by {raw.folder}/{_DESCRIPTION}, "
            f"{', '.join(raw.channels)}"
        )


def _values_by_name(label_set: LabelSet, raw: RawDataset, *, named: Mapping[str, int], where: str) -> dict[int, int]:
    names = [structure.name for structure in label_set.structures]
    expect_known(
        [name for name in names if name not in named],
        raw.labels,
        where=f"{where}: label set {label_set.name}",
        what=f"structure of {_DESCRIPTION}",
    )
    taken: dict[int, str] = {}
    for name in names:
        for value in (named[name],) if name in named else raw.labels[name]:
            if value in taken:
                raise ConfigError(
                    f"{where}: value {value} of the masks is {taken[value]} as well as {name}; expected a label set "
                    "with regions, or a structure alone"
                )
            taken[value] = name
    return {value: label_set.structure(name).label for value, name in taken.items()}


def _name_of(label: int, label_set: LabelSet) -> str:
    """Return the structure of a label; nothing if it is part of regions alone."""
    return next((one.name for one in label_set.structures if one.label == label and not one.region), "")


def _listed(values: Sequence[int]) -> str:
    return f"value{'s' if len(values) > 1 else ''} {', '.join(map(str, values)) or 'none'}"
