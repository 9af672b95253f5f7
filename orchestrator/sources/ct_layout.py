"""Downloads of CT: what is checked of their images and label maps beyond what every download must keep."""

from typing import ClassVar

import numpy as np
import SimpleITK as sitk

from orchestrator.images.geometry import Geometry
from orchestrator.sources.intensity import Intensities, taken_as_hounsfield
from orchestrator.sources.layout import Layout
from orchestrator.sources.plausibility import check_is_of_a_body, far_from, implausible


class CtLayout(Layout):
    """A public download of CT volumes of patients."""

    shows: ClassVar[str] = "a body"
    """What of a patient a volume shows, for messages."""

    def check_grid(self, geometry: Geometry, *, name: str) -> None:
        """Raise SourceError for what is too small or too large for a patient, as by a wrong unit."""
        check_is_of_a_body(geometry, shows=self.shows, name=name)

    def intensities(self, voxels: np.ndarray, *, channel: int, name: str) -> Intensities:
        """Take what is in HU, or can be brought there as its owners say; raises SourceError."""
        del channel
        return taken_as_hounsfield(voxels, shows=self.shows, name=name)

    def implausible(self, image: sitk.Image, labels: sitk.Image, *, label_set: str, name: str) -> tuple[str, ...]:
        """Return what the air of a CT and the outline of the body tell against a label map."""
        return implausible(image, labels, rule=self.rule(label_set), name=name)

    def implausible_beside(
        self, labels: sitk.Image, others: sitk.Image, *, label_sets: tuple[str, str], name: str
    ) -> tuple[str, ...]:
        """Return what is hardly right about where a label map lies beside that of another label set."""
        rule, other = (self.rule(label_set) for label_set in label_sets)
        if rule.near != label_sets[1] or other.pair is None:
            return ()
        return far_from(labels, others, rule=rule, pair=other.pair, name=name)
