"""Cases for patch files."""

import numpy as np

SHAPE = (1, 37, 130, 70)
"""Chunks clipped at every upper border: 3 x 3 x 2 of them."""


def make_case(shape=SHAPE, *, seed=0):
    random = np.random.default_rng(seed)
    data = random.normal(size=shape).astype(np.float32)
    seg = random.integers(-1, 3, size=shape).astype(np.int8)
    locations = {label: np.argwhere(seg == label)[:200].astype(np.int16) for label in (1, 2)}
    properties = {
        "spacing": [np.float64(5.0), 0.8, 0.8],
        "shape_before_cropping": (40, 140, 80),
        "bbox_used_for_cropping": [[0, 37], [3, 133], [0, 70]],
        "sitk_stuff": {"origin": (-120.5, 3.25, 0.1), "direction": tuple(np.eye(3).ravel())},
        "class_locations": {**locations, (1, 2): np.zeros((0, 4), np.int16), 3: []},
    }
    return data, seg, properties
