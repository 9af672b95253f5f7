"""The monitoring files name the metrics that a run publishes, and no others."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "clusters" / "monitoring"


def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((MONITORING / "grafana_dashboard.json").read_text())
    return content


def test_the_dashboard_shows_every_metric_and_no_unknown_one() -> None:
    expressions = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    named = set(re.findall(r"ray_(orchestrator_\w+)", " ".join(expressions)))
    source = (ROOT / "orchestrator" / "ray_backend" / "metrics.py").read_text(encoding="utf-8")
    published = set(re.findall(r'"(orchestrator_[a-z_]+)"', source))
    assert len(published) > 5
    assert named == published


def test_panels_have_different_ids_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_prometheus_finds_the_nodes_through_rays_own_list() -> None:
    content = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    (job,) = content["scrape_configs"]
    assert job["file_sd_configs"][0]["files"] == ["/tmp/ray/prom_metrics_service_discovery.json"]
