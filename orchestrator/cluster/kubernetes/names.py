"""Names as Kubernetes takes them: it refuses others only when a run is submitted, or its operator does later."""

import re
from collections.abc import Callable, Mapping
from typing import Annotated

from pydantic import AfterValidator

_LABEL = r"[a-z]([a-z0-9-]*[a-z0-9])?"
_SUBDOMAIN = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*"
_QUALIFIED = r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?"
_IMAGE = r"[a-z0-9]+([._-]+[a-z0-9]+)*(:\d+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
_TAG = r":[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}|(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?@sha256:[0-9a-f]{64}"


def _matching(pattern: str, *, longest: int, expected: str) -> AfterValidator:
    def check(text: str) -> str:
        if len(text) > longest or not re.fullmatch(pattern, text):
            raise ValueError(f"{expected}, at most {longest} characters")
        return text

    return AfterValidator(check)


def _image(image: str) -> str:
    found = re.fullmatch(f"(?P<name>{_IMAGE})(?P<tag>{_TAG})?", image)
    if found is None:
        raise ValueError("an image, like registry.example.org/orchestrator:1.0")
    if found["tag"] in {None, ":latest"}:
        raise ValueError("an image with a tag other than latest: all machines of a run must hold the same")
    return image


def _mount(path: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+", path):
        raise ValueError("an absolute path of plain names, like /shared")
    return path


def _label_key(key: str) -> str:
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > 253 or not re.fullmatch(_SUBDOMAIN, prefix)):
        raise ValueError("a label, like example.org/kind")
    if len(name) > 63 or not re.fullmatch(_QUALIFIED, name):
        raise ValueError("a label of at most 63 letters, digits, '-', '_' and '.', like example.org/kind")
    return key


def _label_value(value: str) -> str:
    if len(value) > 63 or not re.fullmatch(f"({_QUALIFIED})?", value):
        raise ValueError("a value of a label: at most 63 letters, digits, '-', '_' and '.'")
    return value


def with_keys(check: Callable[[str], str], *, what: str) -> AfterValidator:
    """Return a validator of the keys of a mapping, whose message names the key."""

    def check_all(mapping: Mapping[str, object]) -> Mapping[str, object]:
        for key in mapping:
            try:
                check(key)
            except ValueError as error:
                raise ValueError(f"{what} {key!r:.80} to be {error}") from None
        return mapping

    return AfterValidator(check_all)


def _label(key: str) -> str:
    if len(key) > 40 or not re.fullmatch(_LABEL, key):
        raise ValueError("lower-case letters, digits and '-', at most 40")
    return key


Image = Annotated[str, AfterValidator(_image)]
"""Of a container, by name and tag or digest."""
Mount = Annotated[str, AfterValidator(_mount)]
"""Path in a container."""
Named = Annotated[
    str, _matching(_SUBDOMAIN, longest=253, expected="a name of Kubernetes: lower-case letters, digits, '-' and '.'")
]
"""A claim, a Secret, a service account."""
Namespace = Annotated[
    str, _matching(_LABEL, longest=63, expected="a namespace: lower-case letters, digits and '-', a letter first")
]
LabelKey = Annotated[str, AfterValidator(_label_key)]
LabelValue = Annotated[str, AfterValidator(_label_value)]
GroupNames = with_keys(_label, what="the name")
"""Keys that name groups of pods and volumes."""
NodeLabels = Annotated[dict[str, LabelValue], with_keys(_label_key, what="the key")]
"""What the labels of a node must be."""
