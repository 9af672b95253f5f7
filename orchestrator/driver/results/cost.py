"""What the GPU hours of a run cost by a price list."""

from pathlib import Path

from orchestrator.cluster.prices import load_prices
from orchestrator.cluster.registry import load_cluster
from orchestrator.events import read_events
from orchestrator.simulation.fleet import fleet_of, gpu_cost_usd
from orchestrator.storage.interface import Storage
from orchestrator.usage import Cost, gpu_hours, stage_spans


def cost_of(storage: Storage, *, cluster: Path, prices: Path) -> Cost | None:
    """Return what the GPU hours of a run cost on the machines of a cluster file; None if that is not known.

    Raises ConfigError if a file is not right, or the list lacks a machine of the cluster.
    """
    config = load_cluster(cluster)
    hours = gpu_hours(stage_spans(read_events(storage)))
    if not config.is_rented or not hours:
        return None
    listed = load_prices(prices)
    found = gpu_cost_usd(hours, fleet_of(config, prices=listed))
    return None if found is None else Cost(low_usd=found[0], high_usd=found[1], prices_date=str(listed.date))
