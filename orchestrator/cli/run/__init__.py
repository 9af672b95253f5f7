"""The command `run`: its options, what it shows before, while and after it trains."""

from orchestrator.cli.run.command import main

__all__ = ["main"]
