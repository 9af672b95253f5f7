"""What JSON and YAML of others hold, before anything is known of it."""

from collections.abc import Mapping
from typing import Any

JsonObject = dict[str, Any]
"""An object: whoever reads a value says what it expects."""
JsonMapping = Mapping[str, Any]
"""The same, to be read."""
