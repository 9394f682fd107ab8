"""Scores of drawn frames against the true ones, one video at a time."""

from __future__ import annotations

import contextlib
import time
import types
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from data_pipeline import geometry
from data_pipeline.shards import checksum
from flax_heads import face_id, identity, inception, lpips, metrics

# name -> (title in tables, whether higher is better); the order of the report's columns.
METRICS = {
    "l1": ("L1", False),
    "psnr": ("PSNR", True),
    "ssim": ("SSIM", True),
    "ms_ssim": ("MS-SSIM", True),
    "lpips": ("LPIPS", False),
    "csim_dlib": ("CSIM (dlib)", True),
    "csim_arcface": ("CSIM (ArcFace)", True),
    "nme": ("landmark error", False),
    "no_face": ("no face", False),
    "flicker": ("flicker", False),
    "jitter": ("jitter", False),
    "frechet_dlib": ("Fréchet (dlib)", False),
    "kernel_dlib": ("kernel distance (dlib)", False),
    "frechet_arcface": ("Fréchet (ArcFace)", False),
    "kernel_arcface": ("kernel distance (ArcFace)", False),
    "frechet_inception": ("FID", False),
    "kernel_inception": ("KID", False),
}
# name -> title; baselines first, in the order of tables and pictures.
METHODS = {
    "nearest": "nearest photo",
    "mean": "mean photo",
    "warp": "warped photo",
    "warp_oracle": "warped photo (oracle)",
    "ff": "feed-forward",
    "ff_oracle": "feed-forward (oracle)",
    "before_ft": "before fine-tuning",
    "before_ft_oracle": "before (oracle)",
    "ft": "fine-tuned",
    "ft_oracle": "fine-tuned (oracle)",
    "ft_corrected": "fine-tuned, corrected",
    "ft_corrected_oracle": "corrected (oracle)",
}
BASELINES = ("nearest", "mean", "warp")
ORACLE = "_oracle"  # ends the names of methods that were given the true landmarks
_INCEPTION_BATCH = 8


class Judges(NamedTuple):
    """The fixed networks that judge frames; those without a file are left out.

    Attributes:
      identities: name -> describer of faces (`identity`).
      inception: variables of `inception`, or None.
      lpips: variables of `lpips`, or None.
      weights: name -> what tells their weights from others, for the report.
    """

    identities: dict[str, Any]
    inception: Any = None
    lpips: Any = None
    weights: Mapping[str, str] = types.MappingProxyType({})


def make_judges(
    arcface: str | None = None,
    inception_weights: str | None = None,
    lpips_weights: tuple[str, str] | None = None,
) -> Judges:
    """dlib's face network, and what the user's files of weights add to it.

    Args:
      arcface: ONNX file of a face recogniser.
      inception_weights: pytorch-fid's InceptionV3.
      lpips_weights: files of (AlexNet, LPIPS's linear layers).

    Raises:
      InputError: a file is missing or not what it should be.
    """
    identities: dict[str, Any] = {"dlib": identity.DlibIdentity()}
    weights = {"dlib": face_id.WEIGHTS_FILE}
    if arcface:
        identities["arcface"] = identity.ArcFaceIdentity(arcface)
        weights["arcface"] = checksum(arcface)
    inception_variables = lpips_variables = None
    if inception_weights:
        inception_variables = inception.load_inception(inception_weights)
        weights["inception"] = checksum(inception_weights)
    if lpips_weights:
        lpips_variables = lpips.load_lpips(*lpips_weights)
        weights["lpips"] = " ".join(checksum(path) for path in lpips_weights)
    return Judges(identities, inception_variables, lpips_variables, weights)


def describe(
    frames: np.ndarray, landmarks: np.ndarray, judges: Judges
) -> dict[str, np.ndarray]:
    """Feature vectors of frames by every judge that has some: name -> float [F, D].

    Args:
      frames: uint8 [F, H, W, 3].
      landmarks: float [F, 68, 2], of the faces in them.
    """
    features = {
        name: judge.describe(frames, landmarks)
        for name, judge in judges.identities.items()
    }
    if judges.inception is not None:
        features["inception"] = _inception_features(judges.inception, frames)
    return features


def _inception_features(variables: Any, frames: np.ndarray) -> np.ndarray:
    """In batches of one size, the last one padded: compiled once."""
    padded = np.pad(
        frames, [(0, -len(frames) % _INCEPTION_BATCH), (0, 0), (0, 0), (0, 0)]
    )
    features = [
        np.asarray(
            inception.inception_features(variables, padded[i : i + _INCEPTION_BATCH])
        )
        for i in range(0, len(padded), _INCEPTION_BATCH)
    ]
    return np.concatenate(features)[: len(frames)]


class Truth(NamedTuple):
    """The true frames of one video, as the judges see them.

    Attributes:
      frames: uint8 [F, H, W, 3].
      points: float [F, 68, 2], what dlib finds in them; NaN where it finds no face.
      landmarks: float [F, 68, 2], the same, and there what was given.
      features: of the faces at `landmarks`, as `describe` has them.
    """

    frames: np.ndarray
    points: np.ndarray
    landmarks: np.ndarray
    features: dict[str, np.ndarray]


def judge_truth(frames: np.ndarray, landmarks: np.ndarray, judges: Judges) -> Truth:
    """Looks at the true frames with the eyes that will look at the drawn ones.

    dlib finds rendered faces' landmarks in other places than the renderer's, by 0.05 to
    0.08 of the eyes' distance: against exact ones the truth itself would score that.

    Args:
      frames: uint8 [F, H, W, 3].
      landmarks: float [F, 68, 2], where the faces are that dlib does not find.
      judges: the networks.
    """
    points, found = metrics.detect_landmarks(frames)
    landmarks = np.where(found[:, None, None], points, landmarks)
    return Truth(frames, points, landmarks, describe(frames, landmarks, judges))


def score_video(
    frames: np.ndarray, truth: Truth, judges: Judges
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, float]]:
    """Scores one video's drawn frames, which follow each other in time.

    Landmarks are found anew on the drawn frames. A face that is not found counts in
    `no_face`, has no landmark error, and is described where the true face is.

    Args:
      frames: uint8 [F, H, W, 3].
      truth: from `judge_truth`.
      judges: the networks.

    Returns:
      values: name -> float [F] (shorter where frames are compared with the next ones;
        NaN where undefined); features: as `describe`; seconds each took in all.
    """
    values: dict[str, np.ndarray] = {}
    seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start

    for name in ("l1", "psnr", "ssim", "ms_ssim", "flicker"):
        with timed(name):
            values[name] = getattr(metrics, name)(frames, truth.frames)
    if judges.lpips is not None:
        with timed("lpips"):
            values["lpips"] = lpips.lpips(judges.lpips, frames, truth.frames)
    with timed("landmarks"):
        points, found = metrics.detect_landmarks(frames)
    values["nme"] = metrics.normalized_mean_error(points, truth.points)
    values["no_face"] = 1.0 - found
    # Of the error, not of the head: hold-out frames need not be neighbours in time.
    values["jitter"] = metrics.landmark_jitter(
        points - truth.points, geometry.inter_ocular(truth.points)
    )
    with timed("features"):
        at = np.where(found[:, None, None], points, truth.landmarks)
        features = describe(frames, at, judges)
    for name in judges.identities:
        values[f"csim_{name}"] = identity.csim(features[name], truth.features[name])
    return values, features, seconds
