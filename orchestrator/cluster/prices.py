"""What machines cost: one dated YAML file of the user's, read strictly."""

import datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field, PrivateAttr

from orchestrator.configuration import Entry, load_yaml, understood
from orchestrator.errors import ConfigError
from orchestrator.shipped import or_shipped

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class MachinePrice(Entry):
    """What one type of machine costs, in USD an hour."""

    on_demand: Amount
    """Its usual price."""
    spot: Amount | None = None
    """On the spot market; none where it is not to be had there."""
    interruptions_per_hour: Amount = 0.0
    """How often a spot machine is taken back."""


class Prices(Entry):
    """A price list."""

    date: datetime.date
    """When the prices were looked up."""
    start_minutes: Amount = 5.0
    """From the order of a machine until it works."""
    usd_per_hour: dict[str, MachinePrice] = Field(default={})
    """By type of machine, for example `g6e.2xlarge`."""
    _path: Path = PrivateAttr(default=Path("price list"))

    def model_post_init(self, context: object, /) -> None:
        """Take note of the file, for messages."""
        if isinstance(context, Path):
            self._path = context

    def price(self, machine: str, *, is_spot: bool) -> float:
        """Return USD an hour; raises ConfigError if the list has no such price."""
        price = self._of(machine)
        if not is_spot:
            return price.on_demand
        if price.spot is None:
            raise ConfigError(f"{self._path}: {machine} has no spot price; expected 'spot' beside 'on_demand'")
        return price.spot

    def interruptions_per_hour(self, machine: str, *, is_spot: bool) -> float:
        """Return how often a machine is taken back."""
        return self._of(machine).interruptions_per_hour if is_spot else 0.0

    def _of(self, machine: str) -> MachinePrice:
        if machine not in self.usd_per_hour:
            raise ConfigError(f"{self._path}: no price of {machine}; expected one of each machine of the cluster file")
        return self.usd_per_hour[machine]


def load_prices(path: Path) -> Prices:
    """Read a price list; raises ConfigError if it is missing, has an unknown key or a wrong value."""
    path = or_shipped(path)
    return understood(load_yaml(path), Prices, where=str(path), context=path)
