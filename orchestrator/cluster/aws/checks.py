"""The `ray` section of a cluster file for AWS, checked before anything is started or paid for.

Ray's own JSON schema leaves `provider` and `node_config` open: there a misspelled field would be ignored, or fail
only when the first worker starts. They are checked here, `node_config` against the EC2 model that boto3 ships.
"""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.configuration import expect_known
from orchestrator.errors import ConfigError
from orchestrator.storage.json_values import JsonMapping, JsonObject

if TYPE_CHECKING:
    from botocore.model import Shape

PLACEHOLDER = "FILL-IN"
"""Values that hold this word must be replaced before a launch."""

_REQUIRED = (
    "max_workers",
    "auth",
    "head_node_type",
    "available_node_types",
    "setup_commands",
    "head_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
_PROVIDER_KEYS = ("type", "region", "availability_zone", "use_internal_ips", "cache_stopped_nodes", "cloudwatch")
_NODE_REQUIRED = ("InstanceType", "ImageId", "SubnetIds", "SecurityGroupIds", "IamInstanceProfile")


def check_aws(ray: JsonMapping, *, where: str) -> None:
    """Raise ConfigError if Ray or EC2 would not understand this section, or if it is less safe than we want.

    Parameters
    ----------
    ray
        The `ray` section, placeholders allowed.
    where
        Begins the message, for example `clusters/aws.yaml: ray`.
    """
    _check_schema(ray, where=where)
    for key in _REQUIRED:
        if key not in ray:
            raise ConfigError(f"{where}: key {key!r} is missing")
    provider = ray["provider"]
    _refuse_unknown(provider, known=_PROVIDER_KEYS, where=f"{where}: provider")
    if provider["type"] != "aws":
        raise ConfigError(f"{where}: provider: type is {provider['type']!r}; expected 'aws'")
    if not isinstance(provider.get("region"), str):
        raise ConfigError(f"{where}: provider: region is {provider.get('region')!r}; expected a region, like us-east-1")
    head = ray["head_node_type"]
    if head not in ray["available_node_types"]:
        known = ray["available_node_types"]
        near = difflib.get_close_matches(head, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{where}: head_node_type is {head!r}; expected one of {', '.join(known)}{hint}")
    for name, node_type in ray["available_node_types"].items():
        _check_node(node_type, is_head=name == head, where=f"{where}: available_node_types: {name}")
    idle_minutes = ray.get("idle_timeout_minutes", 1)
    if idle_minutes < 1:
        raise ConfigError(
            f"{where}: idle_timeout_minutes is {idle_minutes}; expected at least 1: a worker would be given back "
            "before something runs there"
        )
    _check_start_commands(ray, where=where)


def placeholders(content: object) -> dict[str, tuple[str, ...]]:
    """Return every value that still holds FILL-IN, with the fields where it stands."""
    found: dict[str, list[str]] = {}
    for field, value in _leaves(content, field=""):
        for word in re.findall(rf"{PLACEHOLDER}[\w-]*", value):
            found.setdefault(word, []).append(field)
    return {word: tuple(fields) for word, fields in found.items()}


def _leaves(content: object, *, field: str) -> Iterator[tuple[str, str]]:
    if isinstance(content, str):
        yield field, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _leaves(value, field=f"{field}.{key}" if field else str(key))
    elif isinstance(content, Sequence):
        for value in content:
            yield from _leaves(value, field=field)


def _check_schema(ray: JsonMapping, *, where: str) -> None:
    """Validate against the schema that comes with the installed Ray, with our wording of its complaints."""
    import jsonschema

    errors = jsonschema.Draft7Validator(_ray_schema()).iter_errors(ray)
    error = min(errors, key=lambda error: len(error.absolute_path), default=None)
    if error is None:
        return
    place = ": ".join([where, *map(str, error.absolute_path)])
    if error.validator == "additionalProperties":
        _refuse_unknown(error.instance, known=tuple(error.schema.get("properties", ())), where=place)
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        raise ConfigError(f"{place}: key {missing!r} is missing")
    if error.validator == "type":
        raise ConfigError(f"{place} is {error.instance!r}; expected {error.validator_value}")
    raise ConfigError(f"{place}: {error.message}")


def _check_node(node_type: JsonMapping, *, is_head: bool, where: str) -> None:
    config = node_type["node_config"]
    where_config = f"{where}: node_config"
    for key in _NODE_REQUIRED:
        if key not in config:
            raise ConfigError(f"{where_config}: key {key!r} is missing")
    _check_ec2({key: value for key, value in config.items() if key != "SubnetIds"}, where=where_config)
    subnets = config["SubnetIds"]
    if not isinstance(subnets, list) or not subnets or not all(isinstance(subnet, str) for subnet in subnets):
        raise ConfigError(f"{where_config}: SubnetIds is {subnets!r}; expected a list of subnet ids")
    market = config.get("InstanceMarketOptions")
    if market is not None and market.get("MarketType") != "spot":
        raise ConfigError(
            f"{where_config}: InstanceMarketOptions: MarketType is {market.get('MarketType')!r}; expected 'spot'"
        )
    for resource in ("CPU", "GPU"):
        if resource not in node_type["resources"]:
            raise ConfigError(f"{where}: resources: key {resource!r} is missing; 0 if it offers none to stages")
    if is_head:
        _check_head(node_type, where=where)
        return
    smallest, largest = node_type.get("min_workers", 0), node_type.get("max_workers")
    if largest is None or not 0 <= smallest <= largest:
        raise ConfigError(f"{where}: min_workers {smallest}, max_workers {largest}; expected 0 <= min <= max")


def _check_head(node_type: JsonMapping, *, where: str) -> None:
    if "InstanceMarketOptions" in node_type["node_config"]:
        raise ConfigError(
            f"{where}: node_config: the head is on the spot market; its loss ends the run. Remove InstanceMarketOptions"
        )
    if node_type["resources"]["CPU"] != 0:
        raise ConfigError(
            f"{where}: resources: CPU is {node_type['resources']['CPU']}; expected 0: the head only drives the run"
        )


def _check_ec2(config: JsonMapping, *, where: str) -> None:
    """Check the arguments of EC2's RunInstances, names and types, without asking AWS."""
    from botocore.validate import ParamValidator

    shape = _run_instances_shape()
    _refuse_unknown_members(config, shape=shape, where=where)
    report = ParamValidator().validate({**config, "MinCount": 1, "MaxCount": 1}, shape)
    if report.has_errors():
        raise ConfigError(f"{where}: {report.generate_report().splitlines()[0]}")


def _refuse_unknown_members(content: object, *, shape: "Shape", where: str) -> None:
    if shape.type_name == "structure" and isinstance(content, Mapping):
        _refuse_unknown(content, known=tuple(shape.members), where=where)
        for key, value in content.items():
            _refuse_unknown_members(value, shape=shape.members[key], where=f"{where}: {key}")
    elif shape.type_name == "list" and isinstance(content, list):
        for value in content:
            _refuse_unknown_members(value, shape=shape.member, where=where)


def _check_start_commands(ray: JsonMapping, *, where: str) -> None:
    """Hold that no Ray process starts without the token and that the dashboard stays on the head's loopback."""
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [command for command in ray[key] if "ray start" in command]
        if not starts:
            raise ConfigError(f"{where}: {key}: no `ray start`; expected one")
        if not all("RAY_AUTH_MODE=token" in command and "RAY_AUTH_TOKEN_PATH=" in command for command in starts):
            raise ConfigError(
                f"{where}: {key}: `ray start` without RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=...: anyone who "
                "reaches the port could run code"
            )
    for command in ray["head_start_ray_commands"]:
        host = re.search(r"--dashboard-host[= ]([\w.:]+)", command)
        if host and host[1] not in {"127.0.0.1", "localhost"}:
            raise ConfigError(
                f"{where}: head_start_ray_commands: --dashboard-host={host[1]}; expected 127.0.0.1: the dashboard is "
                "reached through the SSH tunnel"
            )


def _refuse_unknown(content: Iterable[str], *, known: Iterable[str], where: str) -> None:
    expect_known(content, sorted(known), where=where, what="key")


@cache
def _ray_schema() -> JsonObject:
    spec = find_spec("ray")
    if spec is None or spec.origin is None:
        raise ConfigError("Ray is not installed; expected the version that pyproject.toml names")
    schema: JsonObject = json.loads((Path(spec.origin).parent / "autoscaler" / "ray-schema.json").read_bytes())
    return schema


@cache
def _run_instances_shape() -> "Shape":
    from botocore.loaders import Loader
    from botocore.model import ServiceModel

    model = ServiceModel(Loader().load_service_model("ec2", "service-2"))
    return model.operation_model("RunInstances").input_shape
