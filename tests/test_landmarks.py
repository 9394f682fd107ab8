"""Landmarks of one person, found in photos and followed through videos."""

import importlib
import sys

import numpy as np
import pytest
from PIL import Image

from data_pipeline import landmarks as lm
from data_pipeline.errors import InputError
from data_pipeline.images import read_image
from data_pipeline.landmarks import detect_landmarks, find_faces
from data_pipeline.tracking import FaceTracker, LandmarkTrack, track_video
from data_pipeline.video import read_frames
from data_pipeline.video_writer import VideoWriter

pytest.importorskip("dlib")
skimage_data = pytest.importorskip("skimage.data")


@pytest.fixture(scope="module")
def woman():
    """uint8 [256, 256, 3]: a face about 90 pixels wide, near the middle."""
    return np.ascontiguousarray(skimage_data.astronaut()[:256, 96:352])


@pytest.fixture(scope="module")
def truth(woman):
    return detect_landmarks(woman, "woman")


def eye_distance(landmarks):
    left, right = landmarks[36:42].mean(axis=0), landmarks[42:48].mean(axis=0)
    return np.linalg.norm(left - right)


def error(a, b):
    """Mean distance over the distance of the eyes."""
    return np.linalg.norm(a - b, axis=-1).mean() / eye_distance(b)


def moved(image, dx=0.0, dy=0.0, scale=1.0, degrees=0.0):
    """The picture moved, enlarged and turned (clockwise) about its centre, and the
    map of its points."""
    height, width = image.shape[:2]
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    a = np.deg2rad(degrees)
    matrix = scale * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    shift = centre + [dx, dy] - matrix @ centre
    back = np.linalg.inv(matrix)
    # Pillow counts from the corner of the first pixel.
    offset = 0.5 + back @ (-shift) - back @ [0.5, 0.5]
    turned = Image.fromarray(image).transform(
        (width, height),
        Image.Transform.AFFINE,
        (*back[0], offset[0], *back[1], offset[1]),
        Image.Resampling.BICUBIC,
    )
    return np.asarray(turned), lambda points: points @ matrix.T + shift


# Photos.


def test_landmarks_lie_where_the_face_is(woman, truth):
    assert truth.shape == (68, 2) and truth.dtype == np.float32
    face = find_faces(woman)[0]
    left, top, right, bottom = face.box
    assert face.score > 1.0 and abs((right - left) - (bottom - top)) < 2
    assert left < truth[30, 0] < right and top < truth[30, 1] < bottom
    # Her right eye is on the left, brows over eyes over nose over mouth over chin.
    heights = [truth[s, 1].mean() for s in (slice(17, 27), slice(36, 48))]
    heights += [truth[33, 1], truth[48:68, 1].mean(), truth[8, 1]]
    assert truth[36:42, 0].mean() < truth[42:48, 0].mean()
    assert (np.diff(heights) > 0).all()


@pytest.mark.parametrize(
    "change",
    [{"dx": 13.0, "dy": -9.0}, {"scale": 1.4}, {"scale": 0.8}, {"degrees": 12.0}],
)
def test_landmarks_move_with_the_picture(woman, truth, change):
    image, points = moved(woman, **change)
    assert error(detect_landmarks(image, "moved"), points(truth)) < 0.035


def test_no_bias_between_sizes(woman, truth):
    """Pixel centres stay pixel centres: no half-pixel shift in a large picture."""
    large = np.asarray(
        Image.fromarray(woman).resize((1024, 1024), Image.Resampling.BICUBIC)
    )
    found = (detect_landmarks(large, "large") + 0.5) / 4 - 0.5
    assert np.abs((found - truth).mean(axis=0)).max() < 0.35


def test_small_faces_and_faces_at_the_border(woman, truth):
    small = np.asarray(Image.fromarray(woman).resize((128, 128), Image.Resampling.BOX))
    assert error(2 * detect_landmarks(small, "small"), truth) < 0.08
    left, top = truth.min(axis=0).astype(int)
    tight = np.ascontiguousarray(woman[top - 12 : top + 130, left - 4 : left + 110])
    assert error(detect_landmarks(tight, "tight") + [left - 4, top - 12], truth) < 0.08


def test_large_photo(woman):
    ground = np.full((2400, 3200, 3), 90, np.uint8)
    face = np.asarray(Image.fromarray(woman).resize((1024, 1024)))
    ground[300:1324, 1000:2024] = face
    found = detect_landmarks(ground, "large")
    expected = (detect_landmarks(woman, "w") + 0.5) * 4 - 0.5 + [1000, 300]
    assert error(found, expected) < 0.03


def test_no_face():
    for image in (np.full((300, 200, 3), 128, np.uint8), skimage_data.coffee()):
        assert find_faces(image) == []
        with pytest.raises(InputError, match=r"cup\.png: no face") as caught:
            detect_landmarks(image, "cup.png")
        assert caught.value.reason == "no_face"


def test_a_face_cut_by_the_border_of_a_large_picture(woman, truth):
    """Of such a picture only a small copy gets a border to search in."""
    cut, shift = woman[: int(truth[8, 1]), int(truth[0, 0]) :], [int(truth[0, 0]), 0]
    large = np.asarray(
        Image.fromarray(cut).resize((4 * cut.shape[1], 4 * cut.shape[0]))
    )
    (small_face, *_), (large_face, *_) = find_faces(cut), find_faces(large)
    assert error(small_face.landmarks + shift, truth) < 0.2
    assert error((large_face.landmarks + 0.5) / 4 - 0.5, small_face.landmarks) < 0.1


def test_a_slender_picture_asks_for_little():
    """With a border as wide as its length it would take 3.6 TB."""
    assert find_faces(np.zeros((16, 1_000_000, 3), np.uint8)) == []


def test_several_faces(woman, truth):
    both = np.concatenate([woman, woman], axis=1)
    assert len(find_faces(both)) == 2
    with pytest.raises(InputError, match=r"both\.png: 2 faces.*crop") as caught:
        detect_landmarks(both, "both.png")
    assert caught.value.reason == "several_faces"
    # One that is much larger is the subject.
    large = np.asarray(Image.fromarray(woman).resize((512, 512)))
    image = np.full((512, 768, 3), 100, np.uint8)
    image[:, :512], image[:256, 512:] = large, woman
    assert len(find_faces(image)) == 2
    assert error(detect_landmarks(image, "x"), truth * 2) < 0.05


def test_grey_readonly_and_strided_pictures(woman, truth):
    grey = np.repeat(woman.mean(axis=-1, keepdims=True).astype(np.uint8), 3, axis=2)
    grey.flags.writeable = False
    assert error(detect_landmarks(grey, "grey"), truth) < 0.03
    mirrored = detect_landmarks(woman[:, ::-1], "mirror")  # a view, not contiguous
    assert abs(255 - mirrored[30, 0] - truth[30, 0]) < 3


def test_missing_packages_are_told(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "flax-heads\[data\]"'):
        lm.model_path("shape_predictor_68_face_landmarks.dat")
    lm._dlib.cache_clear()
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(InputError, match=r'dlib.*pip install "flax-heads\[data\]"'):
        lm._dlib()
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r'a\.mp4.*pip install "flax-heads\[data\]"'):
        next(read_frames("a.mp4"))


def test_the_box_of_the_landmarks_is_a_fixed_point(woman, truth):
    """Predicting again and again from its own result does not drift."""
    landmarks = truth
    for _ in range(40):
        landmarks, spread, _ = lm.refine_landmarks(woman, landmarks)
    assert error(landmarks, truth) < 0.01 and spread < 0.01
    noise = np.random.default_rng(0).integers(0, 255, woman.shape, np.uint8)
    assert lm.refine_landmarks(noise, truth)[1] > 0.016


# Tracking.


def test_tracker_follows_motion_zoom_and_roll(woman, truth):
    tracker = FaceTracker()
    for i in range(60):
        change = {
            "dx": 30 * np.sin(i / 8),
            "dy": 20 * np.sin(i / 5),
            "scale": 1.15 + 0.2 * np.sin(i / 9),
            "degrees": 40 * np.sin(i / 12),
        }
        frame, points = moved(woman, **change)
        found = tracker.update(frame)
        assert found is not None, (i, tracker.reason)
        assert found.dtype == np.float32
        assert error(found, points(truth)) < 0.08, i
    assert tracker.num_searches <= 3
    assert tracker.num_checks <= 25 and tracker.num_frames == 60


def test_tracker_notices_that_the_face_goes_and_comes(woman, truth):
    coffee = np.ascontiguousarray(skimage_data.coffee()[:256, :256])
    tracker = FaceTracker()
    assert tracker.update(coffee) is None and tracker.reason == "no_face"
    for _ in range(5):
        assert error(tracker.update(woman), truth) < 0.02 and tracker.reason == ""
    for _ in range(4):
        assert tracker.update(coffee) is None and tracker.reason == "lost"
    shifted, points = moved(woman, dx=40)
    assert error(tracker.update(shifted), points(truth)) < 0.05


def test_tracker_notices_a_slow_fade(woman):
    """No jump and no cut: the periodic check and the spread must see it."""
    noise = np.random.default_rng(0).integers(0, 255, woman.shape).astype(np.float64)
    tracker, found = FaceTracker(), []
    for i in range(60):
        mix = min(i / 30, 1.0)
        frame = ((1 - mix) * woman + mix * noise).astype(np.uint8)
        found.append(tracker.update(frame) is not None)
    assert all(found[:10]) and not any(found[35:])


def test_tracker_stays_with_its_person(woman, truth):
    """Two faces: the more prominent is chosen, also when the other comes to lead."""
    tracker = FaceTracker()
    for i in range(40):
        scale = 1.3 - 0.015 * i  # 1.3 to 0.7
        one, points = moved(woman, scale=scale)
        two, _ = moved(woman, scale=2.0 - scale)
        frame = np.concatenate([one, two], axis=1)
        found = tracker.update(frame)
        assert found is not None and found[:, 0].max() < 260, i
        assert error(found, points(truth)) < 0.08
    assert tracker.most_faces == 2


def test_tracker_takes_new_sizes_and_refuses_other_arrays(woman, truth):
    tracker = FaceTracker()
    tracker.update(woman)
    half = np.asarray(Image.fromarray(woman).resize((384, 384)))
    assert error(tracker.update(half), truth * 1.5) < 0.05
    with pytest.raises(ValueError, match="uint8"):
        tracker.update(woman.astype(np.float32))


def test_cropped_mode_prefers_the_central_face(woman):
    frame, points = moved(woman, scale=1.6, dx=-8, dy=30)
    tracker = FaceTracker(cropped=True)
    found = tracker.update(frame)
    assert found is not None
    assert error(found, detect_landmarks(frame, "x")) < 0.03


# Tracks.


def face_video(path, woman, frames=20, **options):
    with VideoWriter(path, 256, 256, 25.0, **options) as writer:
        for i in range(frames):
            writer.write(
                moved(woman, dx=i, scale=1.2)[0], i / 25 + (0.01 if i % 3 else 0)
            )
    return path


def test_track_video(tmp_path, woman, truth):
    seen = []
    path = face_video(tmp_path / "clip.mp4", woman)
    track = track_video(path, on_frame=lambda t, f, found: seen.append((t, f.shape)))
    assert track.landmarks.shape == (20, 68, 2) and track.landmarks.dtype == np.float32
    assert track.found.all() and track.source == "clip.mp4" and track.problem == ""
    assert (track.width, track.height) == (256, 256)
    np.testing.assert_allclose(
        track.frame_time,
        [i / 25 + (0.01 if i % 3 else 0) for i in range(20)],
        atol=1e-4,
    )
    assert [t for t, _ in seen] == list(track.frame_time)
    for i in (0, 19):
        points = moved(woman, dx=i, scale=1.2)[1]
        assert error(track.landmarks[i], points(truth)) < 0.05


def test_track_of_a_broken_video_keeps_the_good_part(tmp_path, woman):
    path = face_video(tmp_path / "clip.mp4", woman)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.93)])
    track = track_video(path)
    assert 1 <= len(track.frame_time) < 20
    assert "clip.mp4" in track.problem and "\n" not in track.problem


def test_track_without_a_face(tmp_path):
    path = tmp_path / "grey.mp4"
    with VideoWriter(path, 64, 64, 25) as writer:
        for _ in range(3):
            writer.write(np.full((64, 64, 3), 90, np.uint8))
    with pytest.raises(InputError, match=r"grey\.mp4: no face") as caught:
        track_video(path)
    assert caught.value.reason == "no_face"


def a_track(frames=4):
    landmarks = np.random.default_rng(0).normal(size=(frames, 68, 2)).astype(np.float32)
    landmarks[1] = np.nan
    return LandmarkTrack(landmarks, np.arange(frames) / 25.0, 64, 48, 25.0, "é.mp4")


def test_track_file_round_trips(tmp_path):
    path = tmp_path / "a.npz"
    a_track().save(path)
    track = LandmarkTrack.load(path)
    np.testing.assert_array_equal(track.landmarks, a_track().landmarks)
    np.testing.assert_array_equal(track.frame_time, a_track().frame_time)
    assert list(track.found) == [True, False, True, True]
    assert (track.width, track.height, track.fps) == (64, 48, 25.0)
    assert track.source == "é.mp4" and track.problem == ""
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "change",
    [
        {"landmarks": np.zeros((4, 5, 2))},
        {"landmarks": np.zeros((3, 68, 2))},
        {"landmarks": np.full((4, 68, 2), np.inf)},
        {"landmarks": np.array([{"a": 1}] * 4, object)},
        {
            "landmarks": np.where(np.arange(136).reshape(68, 2) > 9, 1, np.nan)[
                None
            ].repeat(4, 0)
        },
        {"landmarks": None},
        {"landmarks": np.full((4, 68, 2), np.nan)},
        {"landmarks": np.zeros((0, 68, 2)), "frame_time": np.zeros(0)},
        {"landmarks": np.full((4, 68, 2), 7.0)},
        {"landmarks": 1e30 * a_track().landmarks},
        {"frame_time": np.array([0, 1, np.nan, 2])},
        {"frame_time": np.array([0, 1, 1, 2])},
        {"width": 0},
        {"fps": np.nan},
        {"source": None},
    ],
)
def test_bad_track_files_are_refused(tmp_path, change):
    fields = {**vars(a_track()), **change}
    path = tmp_path / "a.npz"
    np.savez(path, **{k: v for k, v in fields.items() if v is not None})
    with pytest.raises(InputError, match=r"a\.npz") as caught:
        LandmarkTrack.load(path)
    assert caught.value.reason == "not_landmarks" and "\n" not in str(caught.value)


def test_other_files_are_not_tracks(tmp_path):
    path = tmp_path / "a.npz"
    for content in (b"not a zip", b"PK\x03\x04" + bytes(100)):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.npz"):
            LandmarkTrack.load(path)
    np.save(tmp_path / "b.npy", np.zeros(3))
    with pytest.raises(InputError):
        LandmarkTrack.load(tmp_path / "b.npy")
    with pytest.raises(InputError) as caught:
        a_track().save(tmp_path / "none" / "a.npz")
    assert caught.value.reason == "unwritable"


# Real material.


def test_sample_portraits(samples):
    for path in sorted((samples / "portraits").iterdir()):
        image = read_image(path)
        landmarks = detect_landmarks(image, path.name)
        assert eye_distance(landmarks) > 0.03 * image.shape[1], path.name


def test_tracking_agrees_with_detection_on_samples(samples):
    for clip in ("id10002/Q78OoXXn6gi", "id10024/7diuDmDA0X9", "id10063/2xWeq3lY7TH"):
        path = samples / "voxlike" / "mp4" / clip / "00001.mp4"
        tracker, errors = FaceTracker(cropped=True), []
        for i, (_, frame) in enumerate(read_frames(path)):
            found = tracker.update(frame)
            assert found is not None
            if i in (20, 40, 60):
                errors.append(error(found, find_faces(frame)[0].landmarks))
            if i == 60:
                break
        assert max(errors) < 0.02, (clip, errors)
        assert tracker.num_searches == 1


def test_sample_with_cuts(samples):
    track = track_video(samples / "raw" / "hard_cuts_640x360.mp4")
    assert 0.4 < track.found.mean() < 0.8
    assert not track.found[40:75].any()  # a profile fills the picture


def test_sample_with_two_people(samples):
    track = track_video(samples / "raw" / "hard_two_faces_960x540.mp4")
    assert track.found.all()
    middle = track.landmarks.mean(axis=1)[:, 0]
    assert np.ptp(middle) < 200  # never from one person to the other


def test_sample_bad_videos(samples):
    reasons = {}
    for path in sorted((samples / "bad").glob("*.mp4")):
        try:
            track = track_video(path)
            reasons[path.name] = "broken" if track.problem else "whole"
        except InputError as caught:
            assert path.name in str(caught) and "\n" not in str(caught)
            reasons[path.name] = caught.reason
    assert reasons == {
        "audio_only.mp4": "no_video",
        "bitflips.mp4": "broken",
        "no_face_gradient.mp4": "no_face",
        "no_face_noise.mp4": "no_face",
        "one_frame.mp4": "whole",
        "text_renamed.mp4": "unreadable",
        "truncated_faststart.mp4": "broken",
        "truncated_no_moov.mp4": "unreadable",
        "zero_byte.mp4": "empty",
    }
