"""Configurations of nnU-Net that no data set of pictures can have."""

from orchestrator.benchmark.study import Study
from orchestrator.errors import ConfigError

_PICTURES = (".png", ".bmp")
"""Endings of files that hold a picture and nothing else; others can hold volumes as well."""
TWO_DIMENSIONS = "2d"
"""nnU-Net's configuration of a network for slices."""


def check_configurations(study: Study, *, where: str) -> None:
    """Raise ConfigError for a training of pictures with a network of three dimensions, for which there are no plans."""
    models = {model.name: model for model in study.models}
    for group in study.groups:
        trained_on = (study.dataset(selector.dataset) for selector in group.train)
        flat = [dataset for dataset in trained_on if dataset.file_ending in _PICTURES]
        deep = [models[name] for name in group.matrix_of_model if models[name].configuration != TWO_DIMENSIONS]
        if flat and deep:
            raise ConfigError(
                f"{where}: trainings.{group.name}: model {deep[0].name} is {deep[0].configuration}, and "
                f"{flat[0].name} has pictures ({flat[0].file_ending}); expected {TWO_DIMENSIONS} for these, or a "
                "study of their own"
            )
