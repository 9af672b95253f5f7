"""Names that a study gives: told apart whatever the case of their letters, and none that means something already."""

from collections.abc import Collection, Iterable, Mapping

from orchestrator.benchmark.definition import CASE_NAME, TRAIN, TRAINING_SEED, VALIDATION
from orchestrator.errors import ConfigError

RESERVED_FACETS = frozenset(
    {"model", TRAINING_SEED}
    | {"training_id", "group", "fold", "configuration", "evaluation_set", "dataset", "case", "structure", "status"}
    | {"dsc", "nsd", "hd95_mm", "assd_mm", "hd95_voxel_mm", "hd95_voxel_pooled_mm", "assd_voxel_mm", "masd_voxel_mm"}
    | {"reference_ml", "predicted_ml", "tolerance_mm", "spacing_mm", "num_reference_voxels", "num_predicted_voxels"}
    | {"message", "preset", "seed", "versions", "data_sha256", "split_sha256", "plan_sha256", "checkpoint_sha256"}
    | {"phantoms", "is_capped", "train_elapsed_s", "facets", "score", "further", "provenance"}
    | {"spacing_z_mm", "spacing_y_mm", "spacing_x_mm", "patient", "volume_error", "order"}
)
"""Names that no facet may have: of the columns of the results and of what they are made of, beside which facets stand.

The rooms that define these lie above this one; a test compares them.
"""
_PARTS = {TRAIN: "training", VALIDATION: "validation"}
"""Parts of every training, with their cases."""


def check_letter_case(names: Iterable[str], *, where: str, what: str) -> None:
    """Raise ConfigError for two names that differ in nothing but the case of letters."""
    # Many file systems, and SQL, take them for one.
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(name.casefold(), name)
        if other != name:
            raise ConfigError(
                f"{where}: {what} {other!r} and {name!r} differ in the case of letters alone; expected names that "
                "differ in more"
            )


def check_names_of_facets(facets: Iterable[str], *, where: str) -> None:
    """Raise ConfigError for a facet that is named like a column of the results."""
    if reserved := sorted(name for name in facets if name.casefold() in RESERVED_FACETS):
        raise ConfigError(f"{where}.facets: {reserved[0]!r} is a column of every study; expected another name")


def check_facets(owned: Iterable[tuple[str, Mapping[str, str | int]]], *, where: str) -> None:
    """Raise ConfigError if a facet is a number here and a text there: its column in the results has one type.

    Parameters
    ----------
    owned
        Names of what has facets, with these.
    where
        For messages.
    """
    kinds: dict[str, type] = {}
    for owner, facets in owned:
        for name, value in facets.items():
            if kinds.setdefault(name, type(value)) is not type(value):
                raise ConfigError(
                    f"{where}.{owner}.facets: {name} is {value!r}; expected {kinds[name].__name__} as in the "
                    "groups before it"
                )
        check_letter_case(kinds, where=f"{where}.{owner}.facets", what="facets")


def check_names_of_sets(sets: Iterable[str], *, where: str) -> None:
    """Raise ConfigError for an evaluation set that is named like the cases that a training fits or validates by."""
    for name in sets:
        if name.casefold() in _PARTS:
            raise ConfigError(
                f"{where}: {name!r} always means the {_PARTS[name.casefold()]} cases of a training; expected another "
                "name"
            )


def check_case_names(names: Collection[str], *, where: str) -> None:
    """Raise ConfigError for a case that no file of a run can be named after."""
    for name in names:
        if not CASE_NAME.fullmatch(name):
            raise ConfigError(
                f"{where}: case {name[:100]!r}; expected up to 200 letters, digits, _, . and -, the first a letter or "
                "digit"
            )
    check_letter_case(names, where=where, what="cases")
