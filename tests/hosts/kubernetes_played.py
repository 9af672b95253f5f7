"""A `kubectl` that is played: it keeps objects in a folder, and says what an operator would."""

import json
import sys
from pathlib import Path

import yaml

SCRIPT = """#!{python}
import json, sys, time
from pathlib import Path
import yaml
FOLDER = Path({folder!r})
sys.path.insert(0, {tests!r})
from kubernetes_played import answer
sys.exit(answer(FOLDER, sys.argv[1:]))
"""


def played_kubectl(folder: Path, monkeypatch) -> Path:
    """Put it first on the path; returns the folder of its objects."""
    objects, commands = folder / "objects", folder / "commands"
    objects.mkdir()
    commands.mkdir()
    script = commands / "kubectl"
    script.write_text(SCRIPT.format(python=sys.executable, folder=str(objects), tests=str(Path(__file__).parent)))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:/usr/bin:/bin")
    return objects


def play(objects: Path, *states, log="one\ntwo\n", pods=(), packed=b""):
    """Say what the RayJob is, one state a look, the last one from then on; what its pods are and its driver says."""
    (objects / "states.json").write_text(json.dumps(list(states)))
    (objects / "pods.json").write_text(json.dumps({"items": list(pods)}))
    (objects / "log.txt").write_text(log)
    (objects / "packed.tar").write_bytes(packed)


def state(job="", deployment="", **more):
    return {"jobStatus": job, "jobDeploymentStatus": deployment, "rayClusterName": "run-abcde", **more}


def pod(group, *, message=None, name="pod", phase="Pending", waiting=None):
    conditions = [{"type": "PodScheduled", "status": "False", "message": message}] if message else []
    containers = [{"state": {"waiting": {"reason": waiting}}}] if waiting else []
    return {
        "metadata": {"name": name, "labels": {"ray.io/group": group}},
        "status": {"phase": phase, "conditions": conditions, "containerStatuses": containers},
    }


def answer(folder: Path, words: list[str]) -> int:
    """Be the command; returns its exit code."""
    with (folder / "commands.txt").open("a") as file:
        file.write(" ".join(words) + "\n")
    while words[0].startswith("--"):
        words = words[2:]
    if (folder / "refuses").exists():
        sys.stderr.write((folder / "refuses").read_text())
        return 1
    return VERBS[words[0]](folder, words[1:])


def _apply(folder: Path, words: list[str]) -> int:
    for content in yaml.safe_load_all(sys.stdin.read()):
        (folder / f"{content['kind'].lower()}.yaml").write_text(yaml.safe_dump(content))
    return 0


def _logs(folder: Path, words: list[str]) -> int:
    if (folder / "no-logs").exists():
        sys.stderr.write((folder / "no-logs").read_text())
        return 1
    sys.stdout.write((folder / "log.txt").read_text())
    return 0


def _exec(folder: Path, words: list[str]) -> int:
    sys.stdout.buffer.write((folder / "packed.tar").read_bytes())
    return 0


def _delete(folder: Path, words: list[str]) -> int:
    if (folder / "rayjob.yaml").exists():
        sys.stdout.write(f'rayjob.ray.io "{words[1]}" deleted\n')
    (folder / "rayjob.yaml").unlink(missing_ok=True)
    return 0


def _get(folder: Path, words: list[str]) -> int:
    kind, name = words[:2]
    if kind == "pods":
        sys.stdout.write((folder / "pods.json").read_text())
        return 0
    if kind != "rayjobs.ray.io":
        is_there = (folder / f"{kind}-{name}").exists()
        sys.stdout.write(f"{kind}/{name}\n" if is_there else "")
        sys.stderr.write("" if is_there else f'Error from server (NotFound): {kind} "{name}" not found\n')
        return 0 if is_there else 1
    if not (folder / "rayjob.yaml").exists():
        sys.stderr.write(f'Error from server (NotFound): rayjobs.ray.io "{name}" not found\n')
        return 1
    states = json.loads((folder / "states.json").read_text())
    if len(states) > 1:
        (folder / "states.json").write_text(json.dumps(states[1:]))
    applied = yaml.safe_load((folder / "rayjob.yaml").read_text()) or {}
    sys.stdout.write(json.dumps({"metadata": applied.get("metadata", {}), "status": states[0]}))
    return 0


VERBS = {"apply": _apply, "get": _get, "logs": _logs, "exec": _exec, "delete": _delete}
