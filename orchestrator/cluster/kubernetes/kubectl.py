"""The command `kubectl`, through which everything of a run is applied, looked at and deleted."""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

from orchestrator.cluster.environment import AUTH_TOKEN
from orchestrator.errors import ClusterError, ConfigError
from orchestrator.storage.json_values import JsonMapping

ANSWER_WITHIN_S = 60.0
SHOWN_OF_ERROR = 500
"""Characters at its end."""
RAY_JOB = "rayjobs.ray.io"
NOT_FOUND, FORBIDDEN = "NotFound", "Forbidden"
NO_OPERATOR = ("no matches for kind", "doesn't have a resource type")
"""What it says where KubeRay is not installed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kubectl:
    """Commands in one namespace of one cluster."""

    context: str | None
    """Of the user's own configuration; None for the current one."""
    namespace: str | None
    """None for that of the context."""

    def command(self, *words: str) -> list[str]:
        """Return a whole command line."""
        context = ["--context", self.context] if self.context else []
        namespace = ["--namespace", self.namespace] if self.namespace else []
        return ["kubectl", *context, *namespace, *words]

    def apply(self, text: str) -> None:
        """Create or change what a manifest describes; raises ConfigError if KubeRay is not installed."""
        self._answer("apply", "-f", "-", text=text)

    def get(self, kind: str, name: str) -> JsonMapping | None:
        """Return an object; None if there is none of that name."""
        try:
            found: JsonMapping = json.loads(self._answer("get", kind, name, "-o", "json"))
        except ClusterError as error:
            if NOT_FOUND in str(error):
                return None
            raise
        except ValueError as error:
            raise ClusterError(f"kubectl get {kind} {name}: no JSON ({error})") from error
        return found

    def exists(self, kind: str, name: str) -> bool:
        """Whether there is an object, or this user may not see whether; its content is not asked for."""
        try:
            self._answer("get", kind, name, "-o", "name")
        except ClusterError as error:
            if NOT_FOUND in str(error):
                return False
            if FORBIDDEN not in str(error):
                raise
        return True

    def pods(self, labels: str) -> Sequence[JsonMapping]:
        """Return the pods with some labels."""
        answer = self._answer("get", "pods", "-l", labels, "-o", "json")
        try:
            items: list[JsonMapping] = json.loads(answer)["items"]
        except (ValueError, KeyError, TypeError) as error:
            raise ClusterError(f"kubectl get pods -l {labels}: no list of pods ({error!r})") from error
        return items

    def delete(self, name: str) -> str:
        """Delete a run and what belongs to it; returns what was deleted, in words of the command."""
        kinds = f"{RAY_JOB},configmap"
        return self._answer("delete", kinds, name, "--ignore-not-found", "--wait=true", "--timeout=50s").strip()

    def read(self, *words: str) -> bytes:
        """Return what a command writes, as it is."""
        return _run(self.command(*words), text=None).stdout

    def stream(self, words: Sequence[str], *, take: Callable[[str], None]) -> str:
        """Run a command to its end and hand on what it writes, as it comes; returns why it has failed, if it has."""
        with tempfile.TemporaryFile() as errors:
            code = self._stream(words, take=take, errors=errors)
            errors.seek(0)
            told = " ".join(errors.read().decode(errors="replace").split())[-SHOWN_OF_ERROR:]
        return (told or f"exit code {code}") if code else ""

    def _stream(self, words: Sequence[str], *, take: Callable[[str], None], errors: IO[bytes]) -> int:
        try:
            process = subprocess.Popen(
                self.command(*words),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=_environment(),
                # Ctrl-C ends the watching, in an order of ours.
                start_new_session=True,
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise _not_started(error) from error
        with process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    take(line)
            except BaseException:
                process.kill()
                raise
        return process.returncode

    def _answer(self, *words: str, text: str | None = None) -> str:
        return _run(self.command(*words), text=text).stdout.decode(errors="replace")


def _run(command: Sequence[str], *, text: str | None) -> "subprocess.CompletedProcess[bytes]":
    given = text.encode() if text is not None else None
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, check=False, timeout=ANSWER_WITHIN_S, env=_environment()
        )
    except FileNotFoundError as error:
        raise _not_started(error) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"{' '.join(command)}: {error}") from error
    if done.returncode:
        told = " ".join(done.stderr.decode(errors="replace").split())[-SHOWN_OF_ERROR:]
        if any(words in told for words in NO_OPERATOR):
            raise ConfigError(
                f"the cluster knows no RayJob ({told}); expected KubeRay's operator, 1.6 or later. Install it, or have "
                "an administrator do so: helm install kuberay-operator kuberay/kuberay-operator"
            )
        raise ClusterError(f"{' '.join(command)}: exit code {done.returncode}: {told}")
    return done


def _not_started(error: OSError) -> ConfigError:
    return ConfigError(f"kubectl: {error.strerror}; expected on the path of this machine")


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != AUTH_TOKEN}
