"""Tiny downloads, for all tests of sources."""

import shutil
from pathlib import Path

import layouts
import pytest


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("shipped")
    layouts.write_downloads(data)
    return data


@pytest.fixture
def data(shipped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shipped, tmp_path / "data"))
