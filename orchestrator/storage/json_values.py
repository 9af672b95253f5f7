"""What JSON and YAML of others hold, before anything is known of it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

JsonObject = dict[str, Any]
"""An object: whoever reads a value says what it expects."""
JsonMapping = Mapping[str, Any]
"""The same, to be read."""


def distinct_keys(found: Sequence[tuple[str, object]]) -> JsonObject:
    """Return an object of JSON, for `object_pairs_hook`; raises ValueError if a key stands twice."""
    loaded = dict(found)
    if len(loaded) < len(found):
        repeated = Counter(key for key, _ in found).most_common(1)[0][0]
        raise ValueError(f"key {repeated!r} stands twice")
    return loaded
