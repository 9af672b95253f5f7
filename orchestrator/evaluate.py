"""`python -m orchestrator.evaluate`: the command `evaluate`."""

import sys
from types import ModuleType

from orchestrator.cli.evaluate import main

__all__ = ["main"]


class _Door(ModuleType):
    """The module, callable as the function of its name, which it hides in the package once it is imported."""

    def __call__(self, *arguments: object, **options: object) -> object:
        from orchestrator import api

        return api.evaluate(*arguments, **options)  # type: ignore[arg-type]


if __name__ == "__main__":
    raise SystemExit(main())
sys.modules[__name__].__class__ = _Door
