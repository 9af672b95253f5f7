"""Whether a model may have every setting of a space, before anything of a sweep is written or trained."""

from orchestrator.benchmark.definition import Model
from orchestrator.benchmark.presets import Preset
from orchestrator.benchmark.study_file import ModelEntry
from orchestrator.configuration import understood
from orchestrator.errors import ConfigError
from orchestrator.search.space import OF_A_MODEL, Space
from orchestrator.training.nnunet.classes import check_models


def check_values(space: Space, *, preset: Preset) -> None:
    """Raise ConfigError for a value of a choice, or an end of a range, that no model of a preset may have."""
    where = str(space.path)
    for name, entry in space.settings.items():
        # What is between two numbers that are allowed is allowed.
        for value in entry.values:
            if name in OF_A_MODEL:
                said = understood({name: value}, ModelEntry, where=where)
                _check_classes(Model(name="of a trial", planner=said.planner, trainer=said.trainer), where=where)
            else:
                preset.changed_by(((name, value),), where=where)


def _check_classes(model: Model, *, where: str) -> None:
    try:
        check_models([model])
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
