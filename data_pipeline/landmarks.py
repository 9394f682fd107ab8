"""Faces and their 68 landmarks (iBUG order) in pictures, by dlib.

Coordinates are pixels; the centre of the top-left pixel is (0, 0).
"""

import dataclasses
import functools
import importlib.util
import pathlib
import threading

import numpy as np
from PIL import Image

from data_pipeline.errors import InputError

_INSTALL = 'pip install "flax-heads[data]"'
_SHAPE_MODEL = "shape_predictor_68_face_landmarks.dat"

# The detector's box, as far as landmarks tell it: half its side and the rise of its
# centre over theirs, in units of the landmarks' root-mean-square radius. Fitted on
# detections in clips of 50 people; the box then does not drift over frames.
_BOX_HALF = 1.415
_BOX_RISE = 0.129
# Landmarks are the mean of predictions from these boxes (shift x, shift y, scale, in
# box sides): steadier than any single one, and their spread tells faces from
# other things.
_BOXES = ((-0.04, -0.03, 1.0), (0.04, -0.03, 1.0), (0.0, 0.05, 0.95), (0.0, 0.0, 1.06))
# dlib rounds landmarks to whole pixels: predict on a chip with a large face.
_CHIP_BOX, _CHIP_SIDE = 200, 300
_ROLL_FREE = np.deg2rad(10.0)  # heads tilted beyond are turned upright by the rest
MAX_SPREAD = 0.02  # of _BOXES' predictions, in box sides, that a face may have
_LONGEST = 800  # longest side, in pixels, of the first search in a picture
_DOMINANT = 2.0


@dataclasses.dataclass(frozen=True)
class Face:
    """A face in a picture.

    Attributes:
      box: (left, top, right, bottom), pixels; may reach beyond the picture.
      score: of the detector, about 0 (doubtful) to 3.
      landmarks: float32 [68, 2], (x, y) pixels.
    """

    box: tuple[float, float, float, float]
    score: float
    landmarks: np.ndarray


def find_faces(image: np.ndarray) -> list[Face]:
    """All faces of a picture, the most prominent first.

    Looks for faces of at least a tenth of the longest side; if there is none, for
    faces of half that size; if there is none, for faces cut by the border.

    Args:
      image: uint8 [H, W, 3] RGB.
    """
    boxes = detect(image, _LONGEST)
    boxes = boxes or detect(image, 2 * _LONGEST, upsample=2.0)
    if not boxes:
        # Shrunk first: a border around a slender picture could fill any memory.
        small, scale = _resized(image, min(1.0, _LONGEST / 1.5 / max(image.shape[:2])))
        pad = max(small.shape[:2]) // 4
        padded = np.pad(small, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
        found = detect(padded, _LONGEST, threshold=-0.2)
        boxes = [
            (tuple((np.array(box) - pad + 0.5) / scale - 0.5), s) for box, s in found
        ]
    faces = []
    for box, score in boxes:
        landmarks, spread = fit_landmarks(image, box)
        if spread <= MAX_SPREAD:
            faces.append(Face(box, score, landmarks))
    return sorted(faces, key=lambda face: -prominence(face.box, image.shape))


def detect_landmarks(image: np.ndarray, name: str) -> np.ndarray:
    """Landmarks of the one face of a photo.

    Of several faces, one that is at least twice as prominent as any other (by its
    area, weighed by how central it is) is taken for the subject.

    Args:
      image: uint8 [H, W, 3] RGB.
      name: what to call the photo in messages.

    Returns:
      float32 [68, 2], (x, y) pixels.

    Raises:
      InputError: `no_face` or `several_faces`.
    """
    faces = find_faces(image)
    if not faces:
        raise InputError(
            f"{name}: no face found; use a photo in which one face looks towards the "
            "camera, is upright, not cut off, and not tiny.",
            "no_face",
        )
    weights = [prominence(face.box, image.shape) for face in faces]
    if len(faces) > 1 and weights[0] < _DOMINANT * weights[1]:
        raise InputError(
            f"{name}: {len(faces)} faces of similar size; crop it so that one remains.",
            "several_faces",
        )
    return faces[0].landmarks


def prominence(box: tuple[float, float, float, float], shape: tuple[int, ...]) -> float:
    """Area of a box in pixels², halved at the corners of the picture."""
    left, top, right, bottom = box
    height, width = shape[:2]
    dx = ((left + right) / 2 - (width - 1) / 2) / width
    dy = ((top + bottom) / 2 - (height - 1) / 2) / height
    distance = min(np.hypot(dx, dy) / np.hypot(0.5, 0.5), 1.0)
    return (right - left) * (bottom - top) * (1.0 - 0.5 * distance)


def detect(
    image: np.ndarray, longest: int, threshold: float = 0.0, upsample: float = 1.0
) -> list[tuple[tuple[float, float, float, float], float]]:
    """Runs dlib's HOG detector, which sees frontal faces of at least 80 pixels.

    Args:
      image: uint8 [H, W, 3] RGB.
      longest: the search runs on a copy of at most this longest side, pixels.
      threshold: smallest score; about -0.5 still means a face where one is expected.
      upsample: by how much the picture may be enlarged to reach `longest`.

    Returns:
      `(box, score)`, best score first; box is (left, top, right, bottom) in pixels of
      `image`.
    """
    image, (sx, sy, *_) = _resized(image, min(longest / max(image.shape[:2]), upsample))
    rectangles, scores, _ = _detector().run(image, 0, threshold)
    return [
        (
            (
                r.left() / sx - 0.5,
                r.top() / sy - 0.5,
                (r.right() + 1) / sx - 0.5,
                (r.bottom() + 1) / sy - 0.5,
            ),
            score,
        )
        for r, score in zip(rectangles, scores)
    ]


def _resized(image: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The picture enlarged by about `scale`, and by how much a box (x, y, x, y) is."""
    height, width = image.shape[:2]
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    if size != (width, height):
        small = Image.fromarray(image).resize(
            size, Image.Resampling.BILINEAR, reducing_gap=2.0
        )
        image = np.asarray(small)
    exactly = np.array([size[0] / width, size[1] / height] * 2)
    return np.ascontiguousarray(image), exactly


def fit_landmarks(
    image: np.ndarray, box: tuple[float, float, float, float], rounds: int = 3
) -> tuple[np.ndarray, float]:
    """Landmarks from a detection: predicted, then refined from their own box.

    The rounds make the result independent of the detector's coarse steps, so that a
    photo and a tracked frame get the same landmarks.

    Returns:
      Landmarks float32 [68, 2] and their spread, see `refine_landmarks`.
    """
    left, top, right, bottom = box
    centre = np.array([(left + right) / 2, (top + bottom) / 2])
    landmarks, spread, _ = _predict(image, centre, (right - left) / 2, 0.0)
    for _ in range(rounds - 1):
        landmarks, spread, _ = refine_landmarks(image, landmarks)
    return landmarks, spread


def refine_landmarks(
    image: np.ndarray, landmarks: np.ndarray
) -> tuple[np.ndarray, float, np.ndarray]:
    """Landmarks predicted anew from where they were, for example a frame before.

    Args:
      image: uint8 [H, W, 3] RGB.
      landmarks: [68, 2], (x, y) pixels, near those of the face.

    Returns:
      Landmarks float32 [68, 2]; the spread of the predictions in box sides, under
      0.012 on nearly all faces and over 0.016 on other things; the chip, uint8
      [300, 300, 3], of the face they were made on.
    """
    return _predict(image, *landmark_box(landmarks))


def landmark_box(landmarks: np.ndarray) -> tuple[np.ndarray, float, float]:
    """The detector-like box of a face.

    Returns:
      Centre float64 [2] and half side in pixels, and the roll in radians by which the
      box is turned: none for heads within 10 degrees of upright.
    """
    points = np.asarray(landmarks, np.float64)
    middle = points.mean(axis=0)
    radius = np.sqrt(((points - middle) ** 2).sum(axis=-1).mean())
    dx, dy = points[42:48].mean(axis=0) - points[36:42].mean(axis=0)
    roll = np.arctan2(dy, dx)
    roll = np.sign(roll) * max(abs(roll) - _ROLL_FREE, 0.0)
    up = np.array([np.sin(roll), -np.cos(roll)])
    return middle + _BOX_RISE * radius * up, max(_BOX_HALF * radius, 1.0), roll


def face_chip(
    image: np.ndarray, centre: np.ndarray, half: float, roll: float, side: int
) -> np.ndarray:
    """Cuts a square out of a picture; black beyond the border.

    Args:
      image: uint8 [H, W, 3] RGB.
      centre: [2] pixels.
      half: distance from the centre to the outermost pixel centres, pixels.
      roll: by how much the square is turned, radians, clockwise on screen.
      side: of the result, pixels.

    Returns:
      uint8 [side, side, 3].
    """
    dlib = _dlib()
    x, y = centre
    square = dlib.drectangle(x - half, y - half, x + half, y + half)
    details = dlib.chip_details(square, dlib.chip_dims(side, side), roll)
    return dlib.extract_image_chip(np.ascontiguousarray(image), details)


def _predict(
    image: np.ndarray, centre: np.ndarray, half: float, roll: float
) -> tuple[np.ndarray, float, np.ndarray]:
    dlib, predictor = _dlib(), load_predictor()
    reach = half * _CHIP_SIDE / _CHIP_BOX
    chip = face_chip(image, centre, reach, roll, _CHIP_SIDE)
    middle = (_CHIP_SIDE - 1) / 2
    shapes = []
    for dx, dy, scale in _BOXES:
        x, y = middle + dx * _CHIP_BOX, middle + dy * _CHIP_BOX
        r = scale * _CHIP_BOX / 2
        box = (round(x - r), round(y - r), round(x + r), round(y + r))
        parts = predictor(chip, dlib.rectangle(*box)).parts()
        shapes.append([(p.x, p.y) for p in parts])
    shapes = np.array(shapes, np.float64)  # [boxes, 68, 2]
    mean = shapes.mean(axis=0)
    spread = np.linalg.norm(shapes - mean, axis=-1).mean() / _CHIP_BOX
    cos, sin = np.cos(roll), np.sin(roll)
    turn = np.array([[cos, sin], [-sin, cos]])  # acts on row vectors
    points = (mean - middle) @ turn * (2 * reach / (_CHIP_SIDE - 1)) + centre
    return points.astype(np.float32), float(spread), chip


@functools.cache
def _dlib():
    try:
        import dlib
    except ImportError as error:
        raise InputError(
            f"dlib, which finds faces, is missing; {_INSTALL}.", "missing_package"
        ) from error
    return dlib


def model_path(name: str) -> pathlib.Path:
    """A file of the package `face_recognition_models`.

    The package is not imported: its own imports fail with a recent setuptools.

    Raises:
      InputError: `missing_package`.
    """
    spec = importlib.util.find_spec("face_recognition_models")
    folders = spec.submodule_search_locations if spec else None
    path = pathlib.Path(folders[0], "models", name) if folders else None
    if path is None or not path.is_file():
        raise InputError(
            f"{name}, a model that finds faces, is missing; {_INSTALL}.",
            "missing_package",
        )
    return path


@functools.cache
def load_predictor():
    """dlib's 68-point model. Raises InputError where it or dlib is missing."""
    return _dlib().shape_predictor(str(model_path(_SHAPE_MODEL)))


_local = threading.local()


def _detector():
    """One a thread: the detector keeps state while it runs."""
    if not hasattr(_local, "detector"):
        _local.detector = _dlib().get_frontal_face_detector()
    return _local.detector
