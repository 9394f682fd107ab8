"""What TensorFlow does for us: it parses records and decodes their pictures.

The only file that knows it, but for the builder of the dataset.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

# No banners: the first only silences TensorFlow's own log, not oneDNN's notice.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import tensorflow as tf

from data_pipeline.images import one_line

with contextlib.suppress(RuntimeError):  # TensorFlow runs already: leave it alone
    tf.config.set_visible_devices([], "GPU")  # the accelerator is JAX's

ReadError = tf.errors.OpError


def parse_example(serialized: bytes, landmarks: bool = True) -> dict[str, Any]:
    """A record's features: `video`, `identity`, F `frames` and `rasters` as bytes.

    Args:
      serialized: as stored.
      landmarks: also gives `landmarks`, float32 [F, 68, 2], which takes longest.

    Raises:
      ValueError: not a record, or one whose parts do not fit together.
    """
    try:
        feature = tf.train.Example.FromString(serialized).features.feature
        example = {
            "video": feature["video"].bytes_list.value[0].decode(),
            "identity": feature["identity"].bytes_list.value[0].decode(),
            "frames": feature["frames"].bytes_list.value,
            "rasters": feature["rasters"].bytes_list.value,
        }
        num_frames, num_rasters = len(example["frames"]), len(example["rasters"])
        if landmarks:
            points = np.float32(feature["landmarks"].float_list.value)
            example["landmarks"] = points.reshape(num_frames, 68, 2)
    except Exception as error:  # protobuf's own, and those of the parts
        raise ValueError(one_line(error)) from error
    if not num_frames or num_frames != num_rasters:
        raise ValueError(f"{num_frames} frames and {num_rasters} rasters")
    return example


def decoded_batches(
    read: Callable[[int], tuple[np.ndarray, ...]],
    start_step: int,
    shape: tuple[int, int],
    size: int,
) -> Iterator[dict[str, np.ndarray]]:
    """Batches of what `read(step)` reads, until that is nothing.

    Args:
      read: step -> videos int32 [B], JPEG files [B, K + 1], PNG files [B, K + 1] and
        landmarks float32 [B, K + 1, 68, 2]; it must not raise, or TensorFlow prints
        pages. Runs in TensorFlow's threads.
      start_step: the first step.
      shape: (B, K + 1).
      size: side of the pictures, pixels.
    """

    def read_step(step):
        videos, frames, rasters, landmarks = tf.numpy_function(
            lambda step: read(int(step)),
            *([step], [tf.int32, tf.string, tf.string, tf.float32]),
            stateful=False,
        )
        videos.set_shape([None])
        frames.set_shape([None, shape[1]])
        rasters.set_shape([None, shape[1]])
        landmarks.set_shape([None, shape[1], 68, 2])
        return videos, frames, rasters, landmarks

    def decode(video, frames, rasters, landmarks):
        # Unrolled, which is faster than tf.map_fn.
        frames = [_decode_frame(frames[i], size) for i in range(shape[1])]
        rasters = [_decode_raster(rasters[i], size) for i in range(shape[1])]
        return {
            "support_frames": tf.stack(frames[:-1]),  # [K, H, W, 3]
            "support_rasters": tf.stack(rasters[:-1]),
            "target_frame": frames[-1],  # [H, W, 3]
            "target_raster": rasters[-1],
            "video_index": video,
            "landmarks": landmarks,
        }

    dataset = (
        tf.data.Dataset.range(start_step, np.iinfo(np.int64).max)
        .map(read_step, num_parallel_calls=2)
        .take_while(lambda videos, *_: tf.size(videos) > 0)
        .unbatch()
        .map(decode, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(shape[0], drop_remainder=True)
        .prefetch(2)
    )
    return dataset.as_numpy_iterator()


def check_pictures(frames, rasters, size: int) -> None:
    """Decodes some JPEG and PNG files, to see whether one can.

    Raises:
      ReadError, ValueError: one cannot.
    """
    for jpeg, png in zip(frames, rasters):
        _decode_frame(jpeg, size)
        _decode_raster(png, size)


def _decode_frame(jpeg, size: int) -> tf.Tensor:
    # As Pillow decodes, so that every reader sees the same pixels.
    frame = tf.io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE")
    return tf.ensure_shape(frame, (size, size, 3))


def _decode_raster(png, size: int) -> tf.Tensor:
    return tf.ensure_shape(tf.io.decode_png(png, channels=3), (size, size, 3))


def cause_of(error: BaseException) -> str:
    """TensorFlow's messages are pages; the cause is in their first words."""
    text = getattr(error, "message", None) or str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
