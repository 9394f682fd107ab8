"""Cross-reenactment with its truth: rendered people in each other's motion."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from data_pipeline import synthetic, workers
from data_pipeline.synthetic_person import person_name, person_seed


class Reenactment(NamedTuple):
    """One person in another's motion.

    Attributes:
      person, driver: names.
      photos: uint8 [T, S, S, 3], the person in independent poses.
      photo_landmarks: float32 [T, 68, 2].
      driver_frame: uint8 [S, S, 3], the driver in the first frame of the motion.
      driver_landmarks: float32 [F, 68, 2], the driver's, which are what a user has.
      frames: uint8 [F, S, S, 3], the truth: the person in the driver's motion.
      landmarks: float32 [F, 68, 2], the truth's.
    """

    person: str
    driver: str
    photos: np.ndarray
    photo_landmarks: np.ndarray
    driver_frame: np.ndarray
    driver_landmarks: np.ndarray
    frames: np.ndarray
    landmarks: np.ndarray


def render_reenactments(
    num_people: int,
    num_photos: int,
    num_frames: int,
    size: int,
    seed: int,
    num_workers: int | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[Reenactment]:
    """Renders people of `archive.render_archive`, each driven by the one after.

    The driver talks, at 25 frames a second. Both have the same motion, shifts and zoom
    included; each their own framing. Person v is the same for any number of people.

    Args:
      num_people: V; the last is driven by person V, who is not otherwise seen.
      num_photos: T.
      num_frames: F.
      size: S, side of the frames in pixels.
      seed: of the set of people.
      num_workers, on_progress: as in `workers.run_all`.
    """
    render = functools.partial(_render, seed, num_photos, num_frames, size)
    return workers.run_all(render, range(num_people), num_workers, on_progress)


def _render(seed, num_photos, num_frames, size, number, beat) -> Reenactment:
    seeds = person_seed(seed, number), person_seed(seed, number + 1)
    person, driver = map(synthetic.sample_identity, seeds)
    poses = synthetic.sample_poses(seeds[0], num_photos)
    motion = synthetic.sample_motion(seeds[1], num_frames, "talk")
    first = {key: values[:1] for key, values in motion.items()}
    photos, photo_landmarks = synthetic.render(person, poses, size)
    beat()
    frames, landmarks = synthetic.render(person, motion, size)
    return Reenactment(
        person=person_name(seed, number),
        driver=person_name(seed, number + 1),
        photos=photos,
        photo_landmarks=photo_landmarks,
        driver_frame=synthetic.render(driver, first, size)[0][0],
        driver_landmarks=synthetic.landmarks_of(driver, motion, size),
        frames=frames,
        landmarks=landmarks,
    )
