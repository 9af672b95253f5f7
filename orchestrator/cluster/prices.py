"""What machines cost: one dated YAML file of the user's, read strictly."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.configuration import Section, load_yaml
from orchestrator.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class MachinePrice:
    """One type of machine, in USD an hour."""

    on_demand_usd: float
    spot_usd: float | None = None
    """None where it is not to be had on the spot market."""
    interruptions_per_hour: float = 0.0
    """How often a spot machine is taken back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """A price list."""

    path: Path
    """The file it was read from."""
    date: datetime.date
    """When they were looked up."""
    start_minutes: float
    """From the order of a machine until it works."""
    machines: Mapping[str, MachinePrice]
    """By instance type."""

    def usd_per_hour(self, instance_type: str, *, is_spot: bool) -> float:
        """Return a price; raises ConfigError if the list has none."""
        price = self._of(instance_type)
        if not is_spot:
            return price.on_demand_usd
        if price.spot_usd is None:
            raise ConfigError(f"{self.path}: {instance_type} has no spot price; expected 'spot' beside 'on_demand'")
        return price.spot_usd

    def interruptions_per_hour(self, instance_type: str, *, is_spot: bool) -> float:
        """Return how often a machine is taken back."""
        return self._of(instance_type).interruptions_per_hour if is_spot else 0.0

    def _of(self, instance_type: str) -> MachinePrice:
        if instance_type not in self.machines:
            raise ConfigError(
                f"{self.path}: no price of {instance_type}; expected one of each machine of the cluster file"
            )
        return self.machines[instance_type]


def load_prices(path: Path) -> Prices:
    """Read a price list.

    Raises
    ------
    ConfigError
        If the file is missing, has an unknown key or a wrong value.
    """
    section = Section(load_yaml(path), where=str(path))
    start_minutes = section.take("start_minutes", float, default=5.0)
    listed = Section(section.take("usd_per_hour", dict, default={}), where=f"{path}: usd_per_hour")
    date = section.take("date", datetime.date)
    section.finish()
    machines = {name: _machine(entry) for name, entry in listed.sections()}
    if not start_minutes >= 0:
        raise ConfigError(f"{path}: start_minutes is {start_minutes:g}; expected at least 0")
    return Prices(path=path, date=date, start_minutes=start_minutes, machines=machines)


def _machine(section: Section) -> MachinePrice:
    values: dict[str, Any] = {
        "on_demand_usd": section.take("on_demand", float),
        "spot_usd": section.take("spot", float, default=None),
        "interruptions_per_hour": section.take("interruptions_per_hour", float, default=0.0),
    }
    section.finish()
    for name, value in values.items():
        if value is not None and not value >= 0:
            raise ConfigError(f"{section.where}: {name} is {value:g}; expected at least 0")
    return MachinePrice(**values)
