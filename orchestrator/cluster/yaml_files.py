"""Cluster files as they are written, for drivers elsewhere and for Ray's cluster launcher."""

import json
import os
from pathlib import Path

import yaml

from orchestrator.storage.json_values import JsonMapping


def write_yaml(path: Path, content: JsonMapping) -> None:
    """Write a file, whole or not at all."""
    temporary = path.with_name(f".tmp-{path.name}")
    # Through JSON: shared parts are written out instead of as YAML references.
    with temporary.open("w", encoding="utf-8") as file:
        yaml.safe_dump(json.loads(json.dumps(content)), file, sort_keys=False)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
