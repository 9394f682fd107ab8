"""Prepared records to batches; only the sampled frames are decoded.

Damaged records are named, counted and replaced, up to a limit.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import os
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from data_pipeline import archive, episodes
from data_pipeline.errors import InputError
from data_pipeline.identity_augmentation import augment_batch, check_strength
from data_pipeline.prepared import open_split
from data_pipeline.read_ahead import read_ahead
from data_pipeline.shards import AGAIN
from data_pipeline.tf_reading import (
    ReadError,
    cause_of,
    check_pictures,
    decoded_batches,
)

MAX_DAMAGED = 0.01  # share of a split's videos
_ATTEMPTS = 1000  # to find a readable video in the place of a damaged one

_log = logging.getLogger("flax_heads.records")

# TensorFlow's threads, which call `read` below, must not outlive the interpreter.
_reading: weakref.WeakSet = weakref.WeakSet()


@atexit.register
def _stop_reading() -> None:
    for batches in list(_reading):
        with contextlib.suppress(ValueError):  # it is in use by a thread of its own
            batches.close()


class Records:
    """One split of a prepared dataset, for training.

    Attributes:
      path: folder of the dataset.
      split: `train` or `test`.
      size: side of the frames, pixels.
      style: how the rasters were drawn.
      crop: the crop convention, `whole_frame` or `follow_head`.
      videos: M names, unique; `video_index` is a position in this list.
      identities: the person in each video.
      frames_per_video: int64 [M].
      damaged: video -> what is wrong with it, of those met so far.
      num_replaced: episodes of damaged videos that were replaced so far.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike,
        split: str = "train",
        max_damaged: float = MAX_DAMAGED,
    ):
        """Opens a dataset.

        Args:
          data_dir: as given to `prepare`, or the folder of one dataset in it.
          split: `train` or `test`.
          max_damaged: share of the videos, in [0, 1), that may turn out to be damaged;
            one more is an error. So is a share of those met so far that is larger
            beyond chance: one of many processes meets few of all.

        Raises:
          InputError: as `prepared.open_split`, or too much damage.
        """
        if not 0 <= max_damaged < 1:
            raise InputError(f"max_damaged must be in [0, 1), not {max_damaged}")
        self._prepared = prepared = open_split(data_dir, split)
        self.path, self.split = prepared.path, split
        self.size, self.style, self.crop = prepared.size, prepared.style, prepared.crop
        self.videos, self.identities = prepared.videos, prepared.identities
        self.frames_per_video = prepared.frames_per_video
        self.damaged: dict[str, str] = {}
        self.num_replaced = 0
        self._max_damaged = max_damaged
        self._met: set[int] = set()
        self._num_met_damaged = 0
        self._undecodable: set[tuple[int, int]] = set()  # (position, video)
        self._refuse_damaged_shards()

    @property
    def num_videos(self) -> int:
        return len(self.videos)

    def batches(
        self,
        seed: int,
        start_step: int,
        batch_size: int,
        num_support: int,
        process_index: int = 0,
        process_count: int = 1,
        identity_augmentation: float = 0.0,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Endless batches (see `episodes`) from `start_step` on, read ahead.

        The same episodes as those of an `Archive` of the same records. In the place of
        one that cannot be read stands that of `episodes.draw_substitute`: what a step
        sees depends on the seed, the step and the files alone.

        Args:
          batch_size: global; each process gets its contiguous part of it.
          identity_augmentation: strength in [0, 1], see `augment_batch`.

        Raises:
          InputError: no video is long enough, the processes do not divide the batch,
            the strength is out of range, or, while reading, more damage than
            `max_damaged` allows.
        """
        check_strength(identity_augmentation)
        part = episodes.process_slice(batch_size, process_index, process_count)
        arguments = (batch_size, num_support, self.frames_per_video)
        episodes.draw_episodes(seed, start_step, *arguments)  # raises early
        batches = self._batches(
            seed, start_step, batch_size, num_support, part, identity_augmentation
        )
        if identity_augmentation:
            batches = read_ahead(batches, archive.AHEAD)
        _reading.add(batches)
        return batches

    def _batches(
        self,
        seed: int,
        start_step: int,
        batch_size: int,
        num_support: int,
        part: slice,
        strength: float,
    ) -> Iterator[dict[str, np.ndarray]]:
        arguments = (batch_size, num_support, self.frames_per_video)
        failures: list[InputError] = []  # TensorFlow hands on no exceptions of ours
        step, shape = start_step, (part.stop - part.start, num_support + 1)

        def read(step):
            """The episodes of one step, undecoded, see `decoded_batches`.

            Landmarks with which nothing is to be drawn are 0: reading them takes
            longest. No episodes tell that there was a failure.
            """
            video_index, frame_index = episodes.draw_episodes(seed, step, *arguments)
            positions = range(step * batch_size, (step + 1) * batch_size)
            try:
                drawn = [
                    self._read_episode(
                        *(seed, positions[b], video_index[b], frame_index[b]),
                        landmarks=strength > 0,
                    )
                    for b in range(batch_size)[part]
                ]
            except InputError as error:
                failures.append(error)
                none = np.zeros((0, shape[1]), object)
                points = np.zeros((0, shape[1], 68, 2), np.float32)
                return np.zeros(0, np.int32), none, none, points
            videos, frames, rasters, points = zip(*drawn)
            # As objects: numpy would strip the zeros at the end of strings.
            frames, rasters = np.array(frames, object), np.array(rasters, object)
            return np.array(videos, np.int32), frames, rasters, np.array(points)

        while not failures:
            try:
                for batch in decoded_batches(read, step, shape, self.size):
                    position = step * batch_size + part.start
                    points = batch.pop("landmarks")
                    yield augment_batch(
                        batch, points, seed, position, strength, self.style
                    )
                    step += 1
            except ReadError as error:
                *episode, _ = read(step)
                first = step * batch_size + part.start
                if not failures and not self._undecodable_in(*episode, first):
                    raise InputError(
                        f"{self.path}: the split {self.split} cannot be read "
                        f"({cause_of(error)}); {AGAIN}",
                        reason="unreadable",
                    ) from error
        raise failures[0]

    def examples(self, indices: Iterable[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Those of some videos that can be read: (index, record as of `parse_example`).

        Raises:
          InputError: more damage than `max_damaged` allows.
        """
        for index in indices:
            if (example := self._read(index, landmarks=True)) is not None:
                yield index, example

    def leave_out(self, index: int, problem: str) -> None:
        """Notes that a video is damaged.

        Raises:
          InputError: `too_damaged`: it is one more than `max_damaged` allows.
        """
        video = self.videos[index]
        if video not in self.damaged:
            self.damaged[video] = problem
            self._num_met_damaged += 1
            _log.warning("%s is left out: %s", video, problem)
        self._check_damage(problem)

    def _check_damage(self, problem: str) -> None:
        allowed = int(self._max_damaged * self.num_videos)
        if len(self.damaged) > allowed:
            raise InputError(
                f"{self.path}: {len(self.damaged)} of the {self.num_videos} videos of "
                f"the split {self.split} are damaged, max_damaged allows {allowed}; the "
                f"last: {problem}",
                reason="too_damaged",
            )
        expected = self._max_damaged * len(self._met)
        if self._num_met_damaged > expected + 4 * math.sqrt(expected) + 4:
            raise InputError(
                f"{self.path}: {self._num_met_damaged} of the first {len(self._met)} "
                f"videos that this process read of the split {self.split} are damaged, "
                f"far more than the {self._max_damaged:.1%} that max_damaged allows; "
                f"the last: {problem}",
                reason="too_damaged",
            )

    def _refuse_damaged_shards(self) -> None:
        """Counts the videos of files that are damaged as a whole."""
        reader = self._prepared.reader
        for shard, problem in reader.damaged.items():
            path = reader.shards[shard].path
            members = reader.members(shard)
            problem = f"{path}: {problem}; {AGAIN}"
            _log.warning("%d videos are left out: %s", len(members), problem)
            self.damaged |= {self.videos[index]: problem for index in members}
            self._check_damage(problem)

    def _read(self, index: int, landmarks: bool = False) -> dict[str, Any] | None:
        """A record; None, and a note, if it is damaged."""
        self._met.add(index)
        try:
            example = self._prepared.read(index, landmarks)
            if landmarks and not np.isfinite(example["landmarks"]).all():
                where = self._prepared.reader.name_of(index)
                raise InputError(
                    f"{where} holds landmarks that are not finite; {AGAIN}"
                )
            return example
        except InputError as error:
            self.leave_out(index, str(error))
            return None

    def _read_episode(
        self,
        seed: int,
        position: int,
        video: int,
        frame_index: np.ndarray,
        landmarks: bool,
    ) -> tuple[int, list[bytes], list[bytes], np.ndarray]:
        """The episode of one position or, if that cannot be read, its substitute."""
        num_support = len(frame_index) - 1
        for attempt in range(1, _ATTEMPTS):
            video = int(video)
            bad = (position, video) in self._undecodable
            if not bad and (example := self._read(video, landmarks)) is not None:
                self.num_replaced += attempt > 1
                frames, rasters = example["frames"], example["rasters"]
                none = np.zeros((len(frames), 68, 2), np.float32)
                return (
                    video,
                    [frames[i] for i in frame_index],
                    [rasters[i] for i in frame_index],
                    example.get("landmarks", none)[frame_index],
                )
            video, frame_index = episodes.draw_substitute(
                seed, position, attempt, num_support, self.frames_per_video
            )
        raise InputError(f"{self.path}: hardly a video can be read; {AGAIN}", "damaged")

    def _undecodable_in(self, videos, frames, rasters, first: int) -> bool:
        """Whether pictures of a step cannot be decoded; if so, notes which."""
        found = False
        for b, video in enumerate(videos.tolist()):
            try:
                check_pictures(frames[b], rasters[b], self.size)
            except (ReadError, ValueError) as error:
                found = True
                self._undecodable.add((first + b, video))
                where = self._prepared.reader.name_of(video)
                problem = (
                    f"{where} holds a damaged picture ({cause_of(error)}); {AGAIN}"
                )
                self.leave_out(video, problem)
        return found
