"""Where studies and cluster files lie that come along: in the checkout, or in an installed package."""

from pathlib import Path

from orchestrator.errors import ConfigError

_CHECKOUT = Path(__file__).resolve().parents[1]
_FOLDERS = ("clusters", "splits")
_INSTALLED = Path(__file__).resolve().parent / "shipped"


def shipped_file(*parts: str) -> Path:
    """Return the path of a file that comes along, such as `shipped_file("clusters", "local.yaml")`."""
    return (_CHECKOUT if _is_checkout() else _INSTALLED).joinpath(*parts)


def or_shipped(path: Path) -> Path:
    """Return a path as it is, or, of one such as `clusters/local.yaml` that is not here, that which comes along."""
    if path.parts[:1] in {(folder,) for folder in _FOLDERS} and not path.exists():
        along = shipped_file(*path.parts)
        return along if along.is_file() else path
    return path


def is_installed(path: Path) -> bool:
    """Whether a file is part of an installed package, and not of a checkout, which is its user's own."""
    return path.resolve().is_relative_to(_INSTALLED)


def checkout() -> Path:
    """Return the folder of the project; raises ConfigError for an installed wheel, which has none."""
    if not _is_checkout():
        raise ConfigError(
            "machines that are started for a run get a copy of the project's folder, and an installed package has "
            "none; expected to be run from a checkout (git clone, then pip install -e .)"
        )
    return _CHECKOUT


def _is_checkout() -> bool:
    return (_CHECKOUT / "pyproject.toml").is_file() and (_CHECKOUT / "splits").is_dir()


LOCAL_CLUSTER = shipped_file("clusters", "local.yaml")
PRICES = shipped_file("clusters", "prices.yaml")
