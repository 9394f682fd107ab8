"""Which video and which frames a training step sees: one rule for every reader.

A batch is a dict of numpy arrays, the only thing the network world gets to see:

| key               | dtype, shape            | content                              |
|-------------------|-------------------------|--------------------------------------|
| `support_frames`  | uint8 [B, K, H, W, 3]   | K frames of one video, RGB           |
| `support_rasters` | uint8 [B, K, H, W, 3]   | their landmark rasters               |
| `target_frame`    | uint8 [B, H, W, 3]      | another frame of the same video      |
| `target_raster`   | uint8 [B, H, W, 3]      | its raster                           |
| `video_index`     | int32 [B]               | dense 0..M-1, the row of W           |

H = W, and the target is never among the supports.
"""

from __future__ import annotations

import functools

import numpy as np

from data_pipeline.errors import InputError

# Keep the uses of a seed apart: the order of videos, the choice of frames, the
# episodes that stand in for damaged ones, and what becomes of the person in them.
_ORDER, _FRAMES, _SUBSTITUTE, IDENTITY = range(4)


def draw_episodes(
    seed: int,
    step: int,
    batch_size: int,
    num_support: int,
    frames_per_video: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the episodes of one global batch: a pure function of (seed, step).

    Position `step * batch_size + b` walks through one permutation of the eligible
    videos per epoch, so every video is seen once before any is seen twice, and a
    resumed run goes on without replaying. The frames depend on the position alone.

    Args:
      seed: non-negative.
      step: the training step, from 0.
      batch_size: B, of the global batch.
      num_support: K.
      frames_per_video: int [V], the number of frames of each video.

    Returns:
      video_index: int32 [B].
      frame_index: int32 [B, K + 1], distinct in a row; the last one is the target.

    Raises:
      InputError: no video has K + 1 frames.
    """
    eligible = np.flatnonzero(np.asarray(frames_per_video) > num_support)
    if not len(eligible):
        most = int(np.max(frames_per_video, initial=0))
        raise InputError(
            f"no video has the {num_support + 1} frames that {num_support} supports "
            f"and a target need (the longest has {most}): prepare more frames per "
            "video or lower num_support",
            reason="too_few_frames",
        )
    positions = step * batch_size + np.arange(batch_size, dtype=np.int64)
    video_index = np.empty(batch_size, np.int32)
    frame_index = np.empty((batch_size, num_support + 1), np.int32)
    for b, position in enumerate(positions.tolist()):
        epoch, slot = divmod(position, len(eligible))
        video = eligible[_epoch_order(seed, epoch, len(eligible))[slot]]
        rng = np.random.default_rng((seed, _FRAMES, position))
        video_index[b] = video
        frame_index[b] = rng.choice(
            frames_per_video[video], num_support + 1, replace=False
        )
    return video_index, frame_index


def draw_substitute(
    seed: int,
    position: int,
    attempt: int,
    num_support: int,
    frames_per_video: np.ndarray,
) -> tuple[int, np.ndarray]:
    """An episode for the place of one that cannot be read.

    A pure function of its arguments, so a resumed run, or one on another number of
    processes, puts the same episode there.

    Args:
      position: `step * batch_size + b`, as in `draw_episodes`.
      attempt: from 1; the next one if this cannot be read either.

    Returns:
      The video and its frames, int32 [K + 1].
    """
    eligible = np.flatnonzero(np.asarray(frames_per_video) > num_support)
    rng = np.random.default_rng((seed, _SUBSTITUTE, position, attempt))
    video = int(rng.choice(eligible))
    frames = rng.choice(frames_per_video[video], num_support + 1, replace=False)
    return video, frames.astype(np.int32)


def process_slice(batch_size: int, process_index: int, process_count: int) -> slice:
    """The contiguous part of the global batch that one process loads.

    Raises:
      InputError: the processes do not divide the batch.
    """
    if batch_size % process_count:
        raise InputError(
            f"batch_size {batch_size} is the global batch and must be a multiple of "
            f"the {process_count} processes",
            reason="batch_size",
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process {process_index} of {process_count}")
    share = batch_size // process_count
    return slice(process_index * share, (process_index + 1) * share)


@functools.lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, num_videos: int) -> np.ndarray:
    """The permutation of one epoch; a batch touches at most a few epochs."""
    return np.random.default_rng((seed, _ORDER, epoch)).permutation(num_videos)
