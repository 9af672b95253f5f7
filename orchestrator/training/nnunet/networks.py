"""Which networks plans may name: nnU-Net imports and calls whatever they name, which may be any program."""

import warnings
from collections.abc import Iterator
from copy import deepcopy

from orchestrator.errors import IntegrityError
from orchestrator.storage.json_values import JsonObject

_ARCHITECTURES = "dynamic_network_architectures.architectures"
_RESIDUAL = f"{_ARCHITECTURES}.unet.ResidualEncoderUNet"
_MOVED = {f"{_ARCHITECTURES}.residual_unet.ResidualEncoderUNet": _RESIDUAL}
"""What nnU-Net makes of plans of its versions 2.0 to 2.3, and where that is."""
_NETWORKS = {f"{_ARCHITECTURES}.unet.PlainConvUNet", _RESIDUAL, *_MOVED}
_OF_AXES = {"conv": "Conv", "instancenorm": "InstanceNorm", "batchnorm": "BatchNorm", "dropout": "Dropout"}
_CLASSES = {
    *((module, f"{name}{axes}d") for module, name in _OF_AXES.items() for axes in (2, 3)),
    *(("activation", name) for name in ("LeakyReLU", "ReLU")),
}
_PARTS = {
    None,
    *(f"torch.nn.{name}" for _, name in _CLASSES),
    *(f"torch.nn.modules.{'.'.join(one)}" for one in _CLASSES),
}
"""What nnU-Net's planners name, and what else its networks are usually made of; each has two names."""


class ForeignNetworkError(IntegrityError):
    """Plans with another network than those that nnU-Net's planners name."""


def check_network(plans: JsonObject, configuration: str) -> None:
    """Raise ForeignNetworkError if a configuration names something else as its network than nnU-Net's planners do.

    Others than that and those that it inherits from are never built, and may name anything.
    """
    for found in _with_parents(plans, configuration):
        if "architecture" not in found:
            continue  # of those it inherits from, or of an earlier nnU-Net, which named one of two
        architecture = found["architecture"]
        parts = architecture["arch_kwargs"]
        network, named = architecture["network_class_name"], [parts[key] for key in architecture["_kw_requires_import"]]
        others = [str(name) for name in (*({network} - _NETWORKS), *(part for part in named if part not in _PARTS))]
        if others:
            raise ForeignNetworkError(
                f"plan of a training with a network of {', '.join(others)}; expected PlainConvUNet or "
                "ResidualEncoderUNet of usual layers, as nnU-Net's planners name them. Nothing else is imported, as it "
                "may be any program"
            )


def _with_parents(plans: JsonObject, configuration: str) -> Iterator[JsonObject]:
    """Yield a configuration and those that it inherits from."""
    configurations, seen = plans["configurations"], set()
    name: str | None = configuration
    while name is not None:
        if name not in configurations or name in seen:
            problem = "configurations that inherit from each other" if name in seen else f"no configuration {name}"
            raise IntegrityError(f"plan of a training with {problem}; there is {', '.join(configurations)}")
        seen.add(name)
        yield configurations[name]
        name = configurations[name].get("inherits_from")


def in_present_words(plans: JsonObject, configuration: str) -> JsonObject:
    """Return plans that describe the network of a configuration as nnU-Net does now.

    Its versions 2.0 to 2.3 had other keys. nnU-Net understands them, with a warning at each look, but gives the
    residual network a place where it is not; in search of it it would import all architectures there are.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    with warnings.catch_warnings(action="ignore"):
        described = PlansManager(deepcopy(plans)).get_configuration(configuration).configuration
    architecture = described["architecture"]
    name = architecture["network_class_name"]
    architecture["network_class_name"] = _MOVED.get(name, name)
    return {**plans, "configurations": {**plans["configurations"], configuration: described}}
