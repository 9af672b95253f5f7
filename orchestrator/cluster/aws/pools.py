"""The machines of a checked `ray` section of a cluster file for AWS, as node pools."""

from dataclasses import replace

from orchestrator.cluster.gpu_kinds import kind_of_instance
from orchestrator.cluster.node_pool import NO_GPU, NodePool
from orchestrator.cluster.prices import Prices
from orchestrator.storage.json_values import JsonMapping

SPOT, ON_DEMAND = "spot", "on demand"


def head_pool(ray: JsonMapping) -> NodePool:
    """Return the machine on which the driver runs."""
    return replace(_pool(ray, ray["head_node_type"]), min_nodes=1, max_nodes=1)


def worker_pools(ray: JsonMapping) -> tuple[NodePool, ...]:
    """Return the machines that Ray's autoscaler may start, as many of each as their own limit allows."""
    return tuple(_pool(ray, name) for name in ray["available_node_types"] if name != ray["head_node_type"])


def most_workers(ray: JsonMapping) -> tuple[NodePool, ...]:
    """Return the workers when as many GPU machines run as possible.

    The global `max_workers` is spent on machines with the most GPUs first, since those set the pace of a run.
    """
    nodes_left = ray["max_workers"]
    found = []
    for pool in sorted(worker_pools(ray), key=lambda pool: (-pool.gpus, -pool.cpus)):
        number = min(pool.max_nodes, nodes_left)
        nodes_left -= number
        if number and pool.cpus:
            found.append(replace(pool, max_nodes=number))
    return tuple(found)


def most_processors(ray: JsonMapping) -> tuple[int, int]:
    """Return the CPUs and GPUs of the cluster when as many GPU machines run as its limits allow."""
    found = [head_pool(ray), *most_workers(ray)]
    return (
        round(sum(pool.max_nodes * pool.cpus for pool in found)),
        round(sum(pool.max_nodes * pool.gpus for pool in found)),
    )


def priced(pool: NodePool, prices: Prices) -> NodePool:
    """Return a pool with its price, and with the habits of its market; raises ConfigError if the list has none."""
    is_spot = pool.market == SPOT
    return replace(
        pool,
        usd_per_hour=prices.price(pool.machine, is_spot=is_spot),
        start_s=prices.start_minutes * 60,
        interruptions_per_hour=prices.interruptions_per_hour(pool.machine, is_spot=is_spot),
    )


def describe(ray: JsonMapping, *, training_hours: float, gpus_per_training: float = 1.0) -> str:
    """Return the machines and the expected length of a run as lines for people.

    Parameters
    ----------
    ray
        A checked `ray` section.
    training_hours
        Hours of all trainings together, one after the other on one GPU.
    gpus_per_training
        Share of a GPU that a training takes.
    """
    lines = [f"cluster {ray['cluster_name']} in {ray['provider']['region']}, at most {ray['max_workers']} workers:"]
    for pool in (head_pool(ray), *worker_pools(ray)):
        number = f"{pool.min_nodes}" if pool.min_nodes else f"0 to {pool.max_nodes}"
        lines.append(
            f"  {pool.name}: {number} x {pool.machine} ({pool.market}), "
            f"each {pool.cpus:g} CPUs and {pool.gpus:g} GPUs for stages"
        )
    cpus, gpus = most_processors(ray)
    slots, unit = (int(gpus / gpus_per_training), "A100") if gpus else (cpus, "CPU core")
    makespan = f"{training_hours / slots:.3g} hours at the least"
    lines.append(
        f"{training_hours:.3g} {unit} hours of training on at most {slots} at a time: {makespan}. "
        "Other GPUs, preprocessing and the start of machines add to this; the provider bills by machine and hour."
    )
    return "\n".join(lines)


def _pool(ray: JsonMapping, name: str) -> NodePool:
    content = ray["available_node_types"][name]
    machine, num_gpus = content["node_config"]["InstanceType"], content["resources"].get("GPU", 0)
    return NodePool(
        name=name,
        machine=machine,
        market=SPOT if "InstanceMarketOptions" in content["node_config"] else ON_DEMAND,
        cpus=content["resources"].get("CPU", 0),
        gpus=num_gpus,
        gpu=(kind_of_instance(machine) if num_gpus else None) or NO_GPU,
        max_nodes=content.get("max_workers", ray["max_workers"]),
    )
