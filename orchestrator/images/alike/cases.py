"""Which cases show the same image."""

from collections.abc import Mapping

from orchestrator.benchmark.definition import Case
from orchestrator.benchmark.leaks import AlikeCases
from orchestrator.images.alike.pairs import alike_images
from orchestrator.images.alike.thumbnail import Thumbnail


def alike_cases(thumbnails: Mapping[Case, Thumbnail]) -> tuple[AlikeCases, ...]:
    """Return the pairs of cases whose images show the same."""
    cases = list(thumbnails)
    return tuple(
        AlikeCases(first=cases[one.first], second=cases[one.second], likeness=one.likeness)
        for one in alike_images(list(thumbnails.values()))
    )
