"""`python -m orchestrator.schemas`: write the JSON schemas of the configuration files."""

from orchestrator.cli.schemas import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(main())
