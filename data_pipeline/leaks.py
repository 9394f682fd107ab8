"""People and pictures that are in two splits of a dataset, whatever they are called."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Euclidean distance of dlib's face descriptors, averaged over a video.
SAME_PERSON = 0.4
_SHOWN = 10  # of the most similar pairs of people
_BLOCK = 256  # videos that are compared with all others at a time


def find_leaks(
    digests: Mapping[str, Sequence[np.ndarray]],
    people: Mapping[str, tuple[Sequence[str], Mapping[int, np.ndarray]]],
) -> tuple[list[str], list[str], list[dict[str, Any]]]:
    """Compares every two splits.

    Args:
      digests: split -> for each video uint64 [F], a hash of each of its frames.
      people: split -> the person in each video, and some videos' mean descriptors [D].

    Returns:
      Lines about people and frames that are certainly in two splits; lines about people
      whose faces are nearly the same; the most similar people, as dicts of `splits`,
      `people` and `distance`.
    """
    leaks, alike, nearest = [], [], []
    for a, b in itertools.combinations(people, 2):
        if both := sorted(set(people[a][0]) & set(people[b][0])):
            leaks.append(
                f"{len(both)} people are in {a} and in {b}, e.g. {both[0]}: scores on "
                f"{b} would mean nothing"
            )
        frames = [
            np.unique(np.concatenate([*digests[s], []]).astype(np.uint64))
            for s in (a, b)
        ]
        if len(same := np.intersect1d(*frames, assume_unique=True)):
            leaks.append(f"{len(same)} frames are in {a} and in {b}, byte for byte")
        nearest += _nearest(a, *people[a], b, *people[b])
    nearest.sort(key=lambda pair: pair["distance"])
    for pair in nearest:
        if pair["distance"] < SAME_PERSON:
            (a, b), (one, other) = pair["splits"], pair["people"]
            alike.append(
                f"{one} in {a} and {other} in {b} look like one person (descriptors "
                f"{pair['distance']:.2f} apart): look at them"
            )
    return leaks, alike, nearest[:_SHOWN]


def _nearest(a, identities_a, vectors_a, b, identities_b, vectors_b) -> list[dict]:
    """For each person of the smaller split the most similar one of the other."""
    if not vectors_a or not vectors_b:
        return []
    if len(vectors_b) > len(vectors_a):
        return _nearest(b, identities_b, vectors_b, a, identities_a, vectors_a)
    names_a = [identities_a[i] for i in vectors_a]
    names_b = [identities_b[i] for i in vectors_b]
    many, few = (np.stack(list(v.values())) for v in (vectors_a, vectors_b))
    best: dict[str, tuple[float, str]] = {}
    for start in range(0, len(few), _BLOCK):
        block = few[start : start + _BLOCK]
        squared = (block**2).sum(1)[:, None] + (many**2).sum(1) - 2 * block @ many.T
        for row, column in enumerate(squared.argmin(1)):
            distance = float(np.sqrt(max(squared[row, column], 0.0)))
            found = distance, names_a[column]
            name = names_b[start + row]
            best[name] = min(best.get(name, found), found)
    return [
        {"splits": [a, b], "people": [other, name], "distance": round(distance, 3)}
        for name, (distance, other) in best.items()
    ]
