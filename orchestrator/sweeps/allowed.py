"""Whether a model may have every setting of a space, before anything of a sweep is written or trained."""

from orchestrator.benchmark.definition import Model
from orchestrator.benchmark.presets import SCHEDULED, Preset
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


_WHY_NOT = {
    "optimizer": "what an optimiser remembers means nothing to another one",
    "mirror_axes": "a model predicts with the axes with which it was trained",
    "augmentation": "a training goes on with the batch that its own loader would have made next",
    "workers": "it says what a training takes of a machine",
    "trainer": "loss, network and what is done in a step are its own",
    "num_epochs": "the decay of the learning rate and the generations follow from it",
    "num_iterations_per_epoch": "the generations follow from it",
    "num_val_iterations_per_epoch": "the patch Dice that is compared follows from it",
}
_OF_A_PLAN = "the plan follows from it, and with that network and patches"


def check_population(space: Space) -> None:
    """Raise ConfigError for what cannot change in the midst of a training, with the reason."""
    for name, entry in space.settings.items():
        if name not in SCHEDULED:
            raise ConfigError(
                f"{space.path}: {name} cannot change during a training: {_WHY_NOT.get(name, _OF_A_PLAN)}. Expected "
                f"only {', '.join(SCHEDULED)} with --stopping pbt"
            )
        if None in entry.values:
            raise ConfigError(f"{space.path}: {name}: null among its values; expected numbers with --stopping pbt")
    # A grid is refused there.
    space.domains()


def _check_classes(model: Model, *, where: str) -> None:
    try:
        check_models([model])
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
