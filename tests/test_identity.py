"""identity.py: cosines, alignment, dlib on real people, ArcFace on a tiny ONNX file."""

import importlib.util
import itertools
import sys

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from data_pipeline import geometry, synthetic
from data_pipeline.errors import InputError
from flax_heads import identity, metrics
from tests.moving_face import face_frame

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("face_recognition_models") is None,
    reason="face_recognition_models is not installed",
)


@pytest.fixture(scope="module")
def landmarks():
    """Of some face, float32 [68, 2] in 128 pixels."""
    motion = synthetic.neutral_motion()
    return synthetic.landmarks_of(synthetic.sample_identity(0), motion, 128)[0]


@pytest.fixture(scope="module")
def dlib_identity():
    return identity.DlibIdentity()


@pytest.fixture
def write_onnx(tmp_path):
    """Writes pixels [batch, 3, size, size] @ weights [D] and returns (path, weights)."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT

    def write(batch="N", size=112, flatten=True):
        rng = np.random.default_rng(0)
        rows = 3 * size * size if flatten else size
        weights = rng.normal(size=(rows, 5)).astype(np.float32)
        nodes = [helper.make_node("MatMul", ["flat", "weights"], ["descriptor"])]
        first = "Flatten" if flatten else "Identity"
        nodes.insert(0, helper.make_node(first, ["pixels"], ["flat"]))
        shape = [batch, 5] if flatten else [batch, 3, size, 5]
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("pixels", float32, [batch, 3, size, size])],
            [helper.make_tensor_value_info("descriptor", float32, shape)],
            [onnx.numpy_helper.from_array(weights, "weights")],
        )
        opset = [helper.make_opsetid("", 17)]
        path = tmp_path / "tiny.onnx"
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
        return path, weights

    return write


def test_cosines():
    a = np.float32([[1, 0], [3, 4], [np.nan, np.nan]])
    b = np.float32([[5, 0], [-3, -4], [1, 1]])
    np.testing.assert_allclose(identity.csim(a, b), [1, -1, np.nan], atol=1e-6)
    with pytest.raises(ValueError, match="differ"):
        identity.csim(a, b[:2])


@needs_weights
def test_dlib_describes_only_frames_with_landmarks(dlib_identity, landmarks):
    frames = np.stack([face_frame(128, shift) for shift in range(19)])
    points = np.repeat(landmarks[None], 19, 0)
    points[4] = np.nan
    found = dlib_identity.describe(frames, points)
    assert found.shape == (19, 128) and found.dtype == np.float32
    assert np.flatnonzero(np.isnan(found).any(-1)).tolist() == [4]
    # More than one batch, the last one not full: each row is its own frame's.
    alone = dlib_identity.describe(frames[18:], points[18:])
    np.testing.assert_allclose(found[18:], alone, atol=1e-5)
    similarity = identity.csim(found, found)
    np.testing.assert_allclose(np.delete(similarity, 4), 1, atol=1e-6)
    assert identity.csim(found[:1], found[18:])[0] < 0.999
    assert np.isnan(dlib_identity.describe(frames, points * np.nan)).all()


@needs_weights
def test_frames_that_are_not_uint8_are_refused(dlib_identity, landmarks):
    with pytest.raises(ValueError, match="uint8"):
        dlib_identity.describe(np.zeros((1, 64, 64, 3), np.float32), landmarks[None])
    with pytest.raises(ValueError, match="68"):
        dlib_identity.describe(np.zeros((1, 64, 64, 3), np.uint8), landmarks)


@needs_weights
def test_one_person_is_more_similar_than_two(dlib_identity, samples):
    pytest.importorskip("dlib")
    video = pytest.importorskip("data_pipeline.video")
    frames, people = [], []
    for folder in sorted((samples / "voxlike" / "mp4").iterdir()):
        clips = sorted(folder.rglob("*.mp4"))
        for clip in clips[:2] if len(clips) > 1 else []:
            with_time = next(itertools.islice(video.read_frames(clip), 10, None))
            frame = Image.fromarray(with_time[1]).resize((256, 256))
            frames.append(np.asarray(frame))
            people.append(folder.name)
        if len(set(people)) == 6:
            break
    frames = np.stack(frames)
    points, found = metrics.detect_landmarks(frames)
    described = dlib_identity.describe(frames, points)[found]
    people = np.array(people)[found]
    pairs = np.broadcast_arrays(described[:, None], described)
    cosine = identity.csim(*(np.array(side) for side in pairs))
    same = people[:, None] == people
    np.fill_diagonal(cosine, np.nan)
    for row, mine in zip(cosine, same):
        if np.isfinite(row[mine]).any():
            assert np.nanmax(row[mine]) > row[~mine].max()


def test_chip_follows_the_face(landmarks):
    """The same chip of a picture turned, shrunk and shifted."""
    photo = face_frame(128)
    angle, scale = np.deg2rad(25), 0.9
    linear = scale * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    matrix = np.concatenate([linear, [[40.0], [5.0]]], 1)
    back = np.linalg.inv(linear)
    shift = 0.5 - back @ (matrix[:, 2] + 0.5)
    turned = Image.fromarray(photo).transform(
        (200, 200),
        Image.Transform.AFFINE,
        np.concatenate([back, shift[:, None]], 1).ravel().tolist(),
        Image.Resampling.BICUBIC,
    )
    points = geometry.transform(landmarks, matrix)
    ours = identity.arcface_chip(photo, landmarks).astype(int)
    moved = identity.arcface_chip(np.asarray(turned), points)
    centre = np.s_[16:96, 16:96]
    assert ours[centre].std() > 20
    assert np.abs(ours - moved)[centre].mean() < 2


def test_five_points_go_to_their_places(landmarks):
    """A frame whose pixels tell where they are, and a face of ArcFace's own shape."""
    x, y = np.meshgrid(np.arange(200), np.arange(200))
    ramp = np.stack([x, y, 0 * x], -1).astype(np.uint8)
    turn = np.array([[1.2, -0.3, 40.0], [0.3, 1.2, 10.0]])
    standard = np.array(
        [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366]]
        + [[41.5493, 92.3655], [70.7299, 92.2041]]
    )
    places = geometry.transform(standard, turn)
    points = landmarks.copy()
    points[36:42], points[42:48] = places[0], places[1]
    points[[30, 48, 54]] = places[2:]
    chip = identity.arcface_chip(ramp, points)
    assert chip.shape == (112, 112, 3)
    for column, row in [(38, 52), (74, 52), (56, 72), (42, 92), (71, 92)]:
        shown = geometry.transform(np.array([column, row]), turn)
        np.testing.assert_allclose(chip[row, column, :2], shown, atol=0.51)


def test_chip_is_that_of_a_reference_warp(landmarks):
    transform = pytest.importorskip("skimage.transform")
    photo = face_frame(128)
    five = [landmarks[36:42].mean(0), landmarks[42:48].mean(0), landmarks[30]]
    five = np.array([*five, landmarks[48], landmarks[54]])
    similarity = transform.SimilarityTransform.from_estimate(
        five, identity._ARCFACE_POINTS
    )
    theirs = transform.warp(
        photo, similarity.inverse, output_shape=(112, 112), preserve_range=True
    )
    ours = identity.arcface_chip(photo, landmarks)
    # Only at the very border of the frame do the two fill in differently.
    inside = scipy.ndimage.binary_erosion(theirs.min(-1) > 0, iterations=2)
    assert inside.mean() > 0.5
    assert np.abs(ours - theirs)[inside].max() < 0.51


@pytest.mark.parametrize("batch", ["N", 1, 3])
def test_arcface_gets_aligned_rgb(write_onnx, landmarks, batch):
    path, weights = write_onnx(batch)
    frames = np.stack([face_frame(128, shift) for shift in (0, 5, 9, 12)])
    points = landmarks + np.arange(4, dtype=np.float32)[:, None, None]
    points[1] = np.nan
    found = identity.ArcFaceIdentity(path).describe(frames, points)
    assert found.dtype == np.float32 and np.isnan(found[1]).all()
    for i in (0, 2, 3):
        chip = identity.arcface_chip(frames[i], points[i]).astype(np.float64)
        planes = (chip / 127.5 - 1).transpose(2, 0, 1)  # R, G, B
        np.testing.assert_allclose(found[i], planes.ravel() @ weights, rtol=1e-3)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"size": 96}, r"\[N, 3, 112, 112\]"),
        ({"flatten": False}, r"gives \[N, D\]"),
    ],
)
def test_other_networks_are_refused(write_onnx, kind, message):
    path, _ = write_onnx(**kind)
    with pytest.raises(InputError, match=message) as caught:
        identity.ArcFaceIdentity(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_no_network_are_refused(tmp_path):
    pytest.importorskip("onnxruntime")
    with pytest.raises(InputError, match="no such file"):
        identity.ArcFaceIdentity(tmp_path / "absent.onnx")
    path = tmp_path / "page.onnx"
    path.write_text("<!DOCTYPE html>\n" * 50)
    with pytest.raises(InputError, match="cannot read it") as caught:
        identity.ArcFaceIdentity(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_onnxruntime_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"flax-heads\[eval\]"):
        identity.ArcFaceIdentity(tmp_path / "any.onnx")
