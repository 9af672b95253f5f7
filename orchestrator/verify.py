"""`python -m orchestrator.verify`: the command `verify`."""

from orchestrator.cli.verify import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(main())
