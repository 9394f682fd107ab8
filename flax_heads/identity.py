"""CSIM: does a drawn face still look like the same person? Two face recognisers.

The paper's CSIM is the cosine of ArcFace descriptors. `ArcFaceIdentity` computes it with
weights that the user brings; `DlibIdentity` needs none, and is another measure. Never
print numbers of the two in one column: `name` tells them apart.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage

from data_pipeline import geometry
from data_pipeline.errors import InputError
from flax_heads import face_id

_BATCH = 16

# Where ArcFace's training crops have the eyes, the tip of the nose and the corners of
# the mouth: (x, y) pixels of 112x112.
_ARCFACE_SIZE = 112
_ARCFACE_POINTS = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
_NOSE_TIP, _MOUTH_CORNERS = 30, [48, 54]


def csim(descriptors: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Cosine similarity of each frame to its true one. [F, D], [F, D] -> [F]."""
    if descriptors.shape != truth.shape:
        raise ValueError(f"{descriptors.shape} and {truth.shape} descriptors differ")
    return (_unit(descriptors) * _unit(truth)).sum(-1)


class DlibIdentity:
    """dlib's face-recognition network: 128 numbers a face.

    Its CSIM is not the paper's: dlib trained for Euclidean distances, and its
    descriptors fill a narrow cone. Over 104 clips of 58 people the cosine was 0.91 to
    1.00 for two clips of one person (median 0.97), and 0.69 to 0.95 for two people
    (median 0.84). Where training had `face_id` in its content loss, this judge is not
    independent.

    Raises:
      InputError: the weights are not installed.
    """

    name = "dlib"

    def __init__(self):
        self._weights = jax.tree.map(jnp.asarray, face_id.load_weights())

    def describe(self, frames: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Identity of the face in each frame.

        Args:
          frames: uint8 [F, H, W, 3].
          landmarks: float [F, 68, 2], pixels, that align the face; NaN where there is
            none. The truth's also serve for drawn frames: then none goes unjudged.

        Returns:
          float32 [F, 128]; NaN for frames without landmarks.
        """
        return _in_batches(self._run, _BATCH, 128, frames, landmarks)

    def _run(self, frames, landmarks):
        return _dlib_descriptor(self._weights, frames, landmarks)


class ArcFaceIdentity:
    """An ArcFace network from an ONNX file that the user brings.

    The file must be as insightface's own are (`w600k_r50.onnx`, `glintr100.onnx`): input
    [N, 3, 112, 112], RGB as (x - 127.5) / 127.5, output [N, D]. A file that scales its
    input inside the graph, as the ONNX model zoo's, looks the same from outside and
    gives wrong numbers. Mind the licence: insightface's weights are for research only.

    Raises:
      InputError: onnxruntime is missing, or the file is, or is not such a network.
    """

    name = "arcface"

    def __init__(self, path: str | pathlib.Path):
        self._session = _open_onnx(path)
        inputs = self._session.get_inputs()
        shape = inputs[0].shape
        if len(inputs) != 1 or shape[1:] != [3, _ARCFACE_SIZE, _ARCFACE_SIZE]:
            raise InputError(
                f"{path}: takes {[i.shape for i in inputs]}, where ArcFace takes "
                f"[N, 3, {_ARCFACE_SIZE}, {_ARCFACE_SIZE}]; give an ArcFace .onnx",
                "bad_weights",
            )
        # Some files are exported for a fixed number of faces.
        self._batch = shape[0] if isinstance(shape[0], int) else _BATCH
        black = np.zeros((self._batch, *shape[1:]), np.float32)
        try:
            found = self._session.run(None, {inputs[0].name: black})[0].shape
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise InputError(
                f"{path}: does not run ({_first_line(error)}); give an ArcFace .onnx",
                "bad_weights",
            ) from error
        if len(found) != 2 or found[0] != self._batch:
            raise InputError(
                f"{path}: gives {list(found)} for {self._batch} faces, where ArcFace "
                "gives [N, D]; give an ArcFace .onnx",
                "bad_weights",
            )
        self._dim = found[1]

    def describe(self, frames: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """As `DlibIdentity.describe`, but float32 [F, D] of the file's own D."""
        return _in_batches(self._run, self._batch, self._dim, frames, landmarks)

    def _run(self, frames, landmarks):
        chips = np.stack([arcface_chip(f, p) for f, p in zip(frames, landmarks)])
        pixels = (chips.astype(np.float32) - 127.5) / 127.5
        pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        return self._session.run(None, {self._session.get_inputs()[0].name: pixels})[0]


def arcface_chip(frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The face as ArcFace's training crops have it: uint8 [H, W, 3] -> [112, 112, 3].

    The similarity that takes five points to their places by least squares; bilinear
    samples, black outside the frame, as insightface does it.

    Args:
      landmarks: float [68, 2], pixels.
    """
    five = np.stack(
        [
            landmarks[geometry.RIGHT_EYE].mean(0),
            landmarks[geometry.LEFT_EYE].mean(0),
            landmarks[_NOSE_TIP],
            *landmarks[_MOUTH_CORNERS],
        ]
    )
    matrix = geometry.fit_similarity(five.astype(np.float64), _ARCFACE_POINTS)
    back = np.linalg.inv(matrix[:, :2])
    channels = [
        scipy.ndimage.affine_transform(
            frame[..., c],
            back[::-1, ::-1],  # rows come before columns
            -(back @ matrix[:, 2])[::-1],
            output_shape=(_ARCFACE_SIZE, _ARCFACE_SIZE),
            output=np.float32,
            order=1,
        )
        for c in range(3)
    ]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


@jax.jit
def _dlib_descriptor(weights, frames, landmarks):
    # No TF32: a score must not depend on the machine.
    with jax.default_matmul_precision("highest"):
        chips = face_id.chips_from_frames(frames.astype(jnp.float32), landmarks)
        return face_id.descriptor(weights, chips)


def _in_batches(
    run: Callable[[np.ndarray, np.ndarray], np.ndarray],
    batch: int,
    dim: int,
    frames: np.ndarray,
    landmarks: np.ndarray,
) -> np.ndarray:
    """`run` on the frames that have landmarks, always `batch` of them at once.

    One shape is compiled once; the last batch repeats its frames to be full.
    """
    if frames.dtype != np.uint8 or landmarks.shape != (len(frames), 68, 2):
        raise ValueError(
            f"needs uint8 [F, H, W, 3] and [F, 68, 2], got {frames.dtype} "
            f"{frames.shape} and {landmarks.shape}"
        )
    rows = np.flatnonzero(np.isfinite(landmarks).all((1, 2)))
    out = np.full((len(frames), dim), np.nan, np.float32)
    for start in range(0, len(rows), batch):
        chosen = rows[start : start + batch]
        filled = np.resize(chosen, batch)
        found = run(frames[filled], landmarks[filled].astype(np.float32))
        out[chosen] = found[: len(chosen)]
    return out


def _open_onnx(path: str | pathlib.Path):
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            'onnxruntime, which runs ArcFace, is missing; pip install "flax-heads[eval]"',
            "missing_package",
        ) from error
    if not pathlib.Path(path).is_file():
        raise InputError(f"{path}: no such file; give an ArcFace .onnx", "missing")
    try:
        return onnxruntime.InferenceSession(
            str(path), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise InputError(
            f"{path}: onnxruntime cannot read it ({_first_line(error)}); give an "
            "ArcFace .onnx",
            "bad_weights",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)
