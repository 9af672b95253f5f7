"""Which label a point between voxels gets.

A label's score is the weight of the neighbours that have it, rounded to float16 after multiplication by 1000; the
highest wins, and a tie goes to the label of the nearest voxel if that is among the best, else to the lowest label.
These are the rules of batchgeneratorsv2's SpatialTransform, whose scores are interpolated one-hot labels.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled

_THOUSAND = np.float32(1000)


class Ballot(NamedTuple):
    """Memory for the vote of one voxel."""

    labels: NDArray[np.int16]
    """Of eight neighbours, or of the first four."""
    weights: NDArray[np.float32]
    """Of the same."""
    names: NDArray[np.int16]
    """The labels among them, each once."""
    scores: NDArray[np.float32]
    """Of these labels."""


@compiled
def _as_float16(score: np.float32) -> np.float32:
    """Round a score from 64 to 1024 to the nearest float16; lower ones never win, so they stay as they are."""
    # Adding 1.5 x 2^k leaves no bits of a float32 below 2^(k - 23).
    if score >= np.float32(512):
        return np.float32((score + np.float32(6291456)) - np.float32(6291456))
    if score >= np.float32(256):
        return np.float32((score + np.float32(3145728)) - np.float32(3145728))
    if score >= np.float32(128):
        return np.float32((score + np.float32(1572864)) - np.float32(1572864))
    if score >= np.float32(64):
        return np.float32((score + np.float32(786432)) - np.float32(786432))
    return score


@compiled
def new_ballot(num_neighbours: int) -> Ballot:
    """Return memory for votes of so many neighbours."""
    return Ballot(
        np.zeros(num_neighbours, np.int16),
        np.zeros(num_neighbours, np.float32),
        np.zeros(8, np.int16),
        np.zeros(8, np.float32),
    )


@compiled
def vote(ballot: Ballot, nearest: np.int16) -> np.int16:
    """Return the label with the highest score."""
    labels, weights, names, scores = ballot
    num = 0
    for k in range(labels.size):
        found = num
        for j in range(num):
            if names[j] == labels[k]:
                found = j
        if found == num:
            names[num] = labels[k]
            scores[num] = np.float32(0)
            num += 1
        scores[found] += weights[k] * _THOUSAND
    best, best_score, nearest_score = names[0], np.float32(-1), np.float32(-2)
    for j in range(num):
        score = _as_float16(scores[j])
        if names[j] == nearest:
            nearest_score = score
        if score > best_score or (score == best_score and names[j] < best):
            best, best_score = names[j], score
    return np.int16(nearest if nearest_score == best_score else best)
