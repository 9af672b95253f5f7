"""AWS cluster files: what they must hold beyond Ray's own schema, and what still has to be filled in."""

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.cluster.config import ClusterConfig
from orchestrator.errors import ConfigError

PLACEHOLDER = re.compile(r"FILL-IN[\w-]*")
"""Marks what a user must fill in; a cluster file with such a mark can be looked at but not launched."""
_NODE_CONFIG_KEYS = (
    "BlockDeviceMappings", "IamInstanceProfile", "ImageId", "InstanceMarketOptions", "InstanceType", "KeyName",
    "MetadataOptions", "NetworkInterfaces", "SecurityGroupIds", "SubnetId", "SubnetIds", "TagSpecifications",
)  # fmt: skip
_PROVIDER_KEYS = (
    "availability_zone", "cache_stopped_nodes", "cloudwatch", "region", "security_group", "type", "use_internal_ips",
)  # fmt: skip


def check_aws(config: ClusterConfig) -> None:
    """Raise ConfigError if the file would fail, or be misunderstood, once machines are running.

    Ray's schema is checked first. It lets unknown keys of `provider` and `node_config` through; they are checked here.
    """
    where = f"{config.path}: ray"
    _check_schema(config.ray, where=where)
    _check_keys(config.ray["provider"], _PROVIDER_KEYS, where=f"{where}.provider")
    if config.ray["provider"]["type"] != "aws":
        raise ConfigError(f"{where}.provider: type is {config.ray['provider']['type']!r}; expected aws")
    for name in ("output", "data"):
        location = getattr(config, name)
        if location is None or not location.startswith("s3://"):
            raise ConfigError(
                f"{config.path}: {name} is {location!r}; expected s3://bucket/prefix, which every node reaches"
            )
    node_types = config.ray.get("available_node_types", {})
    head = config.ray.get("head_node_type")
    if head not in node_types:
        raise ConfigError(f"{where}: head_node_type is {head!r}; expected one of {', '.join(node_types)}")
    for name, node_type in node_types.items():
        _check_keys(
            node_type["node_config"], _NODE_CONFIG_KEYS, where=f"{where}.available_node_types.{name}.node_config"
        )
    if node_types[head].get("resources", {}).get("CPU") != 0:
        raise ConfigError(f"{where}.available_node_types.{head}: resources.CPU must be 0: the head only drives the run")


def missing_values(config: ClusterConfig) -> tuple[str, ...]:
    """Return where the file still says FILL-IN, as `place: text`."""
    found = [f"{name}: {value}" for name, value in (("output", config.output), ("data", config.data)) if value]
    places = [*found, *(f"{place}: {value}" for place, value in _leaves(config.ray, place="ray"))]
    return tuple(place for place in places if PLACEHOLDER.search(place))


def _check_schema(ray_config: Mapping[str, Any], *, where: str) -> None:
    import jsonschema
    from ray.autoscaler._private.util import validate_config

    try:
        validate_config(dict(ray_config))
    except jsonschema.ValidationError as error:
        place = ".".join(str(part) for part in error.absolute_path)
        raise ConfigError(f"{where}{'.' if place else ''}{place}: {error.message}") from error
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _check_keys(section: Mapping[str, Any], known: tuple[str, ...], *, where: str) -> None:
    for key in section:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
            raise ConfigError(f"{where}: unknown key {key!r}; {hint}")


def _leaves(value: Any, *, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, place=f"{place}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, place=f"{place}[{index}]")
    else:
        yield place, value
