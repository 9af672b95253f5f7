"""`python -m orchestrator.phantom`: the command `phantoms`."""

from orchestrator.cli.phantoms import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(main())
