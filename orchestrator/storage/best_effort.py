"""Going on where the storage fails and only something to look at is lost."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.errors import StorageError

logger = logging.getLogger(__name__)


@contextmanager
def best_effort(what: str) -> Iterator[None]:
    """Context in which a storage may fail: what is lost is only for people to look at, and no reason to stop."""
    try:
        yield
    except StorageError as error:
        logger.warning("%s is not written: %s", what, error)
