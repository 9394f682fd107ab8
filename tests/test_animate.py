"""Driving: time and sound kept, gaps filled, pictures where there is no PyAV."""

import dataclasses
import itertools
import logging
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from data_pipeline import face_model, synthetic
from data_pipeline import landmarks as lm
from data_pipeline.errors import InputError
from data_pipeline.images import Limits
from data_pipeline.raster import RasterStyle
from data_pipeline.read_ahead import read_ahead
from data_pipeline.tracking import LandmarkTrack
from flax_heads import animate, cli
from flax_heads.animate import (
    TRANSFERS,
    adapt_landmarks,
    crop_track,
    drive,
    picture_times,
)
from flax_heads.talking_head import TalkingHead

SIZE = 32


@pytest.fixture(scope="module")
def head():
    """A head of random weights: what it draws does not matter here."""
    import jax

    from flax_heads.generator import Generator

    attributes = {
        "channels": [8, 8],
        "num_residual_blocks": 1,
        "attention_after": None,
        "up_attention_after": None,
        "rectified_skip": False,
        "dtype": "float32",
    }
    module = Generator(**(attributes | {"channels": (8, 8)}))
    image = np.zeros((1, SIZE, SIZE, 3), np.float32)
    psi = np.ones((1, module.psi_size), np.float32)
    identity = synthetic.sample_identity(1)
    photos, landmarks = synthetic.render(identity, synthetic.neutral_motion(), SIZE)
    return TalkingHead(
        generator=attributes,
        params=jax.device_get(module.init(jax.random.key(0), image, psi)["params"]),
        psi=psi[0],
        size=SIZE,
        style=RasterStyle(),
        landmarks=landmarks,
        photos=photos,
        history={},
    )


@pytest.fixture(scope="module")
def track():
    """20 frames of a stranger at uneven times, the face missing in three of them."""
    motion = synthetic.sample_motion(7, 20, "look")
    landmarks = synthetic.landmarks_of(synthetic.sample_identity(7), motion, 200)
    landmarks[[0, 8, 9]] = np.nan
    times = np.cumsum(np.tile([0.03, 0.05], 10))
    return LandmarkTrack(landmarks, times, 200, 200, 25.0, "stranger.mp4")


def test_track_to_video_keeps_every_frame_and_its_time(head, track, tmp_path):
    pytest.importorskip("av")
    from data_pipeline.video import read_frames

    track.save(tmp_path / "track.npz")
    output = tmp_path / "out.mp4"
    seen = []
    counts = drive(
        head,
        tmp_path / "track.npz",
        output,
        side_by_side=True,
        on_progress=lambda *now: seen.append(now),
    )
    assert counts == {"frames": 20, "without_face": 3}
    assert seen[-1] == ("frames", 20, 20)
    frames = list(read_frames(output))
    assert len(frames) == 20
    height, width, _ = frames[0][1].shape
    assert width == 3 * height and height >= 256
    times = np.array([t for t, _ in frames])
    np.testing.assert_allclose(np.diff(times), np.diff(track.frame_time), atol=1e-3)
    assert (
        np.asarray(Image.open(tmp_path / "out_sheet.png")).ndim == 3
    )  # the contact sheet


def test_video_driver_keeps_its_sound(head, tmp_path):
    av = pytest.importorskip("av")
    pytest.importorskip("dlib")
    from data_pipeline.video import probe
    from data_pipeline.video_writer import VideoWriter

    sound = tmp_path / "tone.wav"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        wave = (np.sin(np.arange(16000) / 10) * 9000).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    driver = tmp_path / "driver.mp4"
    identity = synthetic.sample_identity(5)
    motion = synthetic.sample_motion(5, 10, "talk")
    pictures, _ = synthetic.render(identity, motion, 128)
    with VideoWriter(driver, 128, 128, 12.5, audio_from=sound) as writer:
        for picture in pictures:
            writer.write(picture)
    output = tmp_path / "out.mp4"
    counts = drive(head, driver, output)
    info = probe(output)
    assert counts["frames"] == 10
    assert info.has_audio and info.fps == pytest.approx(12.5, rel=0.01)
    with pytest.raises(
        InputError, match=r"driver.mp4: 10 frames .* the limit \(5 frames"
    ):
        drive(head, driver, output, limits=Limits(max_frames=5))


def test_corrections_reach_the_frames(head, track, tmp_path, monkeypatch):
    pytest.importorskip("dlib")
    track.save(tmp_path / "track.npz")
    asked = []

    def recorded(head, landmarks, rounds):
        asked.append((landmarks, rounds))
        return (255 - frame for frame in head.animate(landmarks))

    monkeypatch.setattr(animate, "animate_corrected", recorded)
    for name, corrections in (("plain.webp", 0), ("corrected.webp", 2)):
        output = tmp_path / name
        drive(head, tmp_path / "track.npz", output, corrections=corrections)
    ((landmarks, rounds),) = asked
    _, in_crop = crop_track(track, SIZE)
    wanted = adapt_landmarks(head.landmarks, in_crop, "relative")
    np.testing.assert_array_equal(landmarks, wanted)
    assert rounds == 2
    plain, corrected = (
        np.asarray(Image.open(tmp_path / name).convert("RGB"), float)
        for name in ("plain.webp", "corrected.webp")
    )
    assert np.abs(255 - plain - corrected).mean() < 5 < np.abs(plain - corrected).mean()


def test_corrections_without_dlib_are_refused_before_any_work(
    head, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "dlib", None)
    lm._dlib.cache_clear()
    lm.load_predictor.cache_clear()
    missing = tmp_path / "missing.npz"
    with pytest.raises(InputError, match=r"dlib.* is missing"):
        drive(head, missing, tmp_path / "out.webp", corrections=1)


def test_webp_without_pyav(head, track, tmp_path, monkeypatch):
    track.save(tmp_path / "track.npz")
    monkeypatch.setitem(sys.modules, "av", None)
    drive(head, tmp_path / "track.npz", tmp_path / "out.webp")
    with Image.open(tmp_path / "out.webp") as picture:
        assert picture.n_frames > 1
    with pytest.raises(InputError, match=r"PyAV writes videos; .* or name a \.gif"):
        drive(head, tmp_path / "track.npz", tmp_path / "out.mp4")


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
@pytest.mark.parametrize("fps", [10, 24, 30, 60, 120])
def test_pictures_keep_the_drivers_time(suffix, fps):
    """GIF counts hundredths of a second: what rounding leaves must not add up."""
    times = np.arange(2 * fps) / fps + 5
    shown, durations = picture_times(times, fps, suffix)
    assert 0 in shown and len(shown) == len(durations) <= len(times)
    assert abs(sum(durations) - 2000) <= 10
    if suffix == ".gif":
        assert min(durations) >= 20 and not any(d % 10 for d in durations)
    else:
        assert len(shown) == len(times)
    starts = np.cumsum([0, *durations[:-1]]) / 1000
    np.testing.assert_allclose(starts, times[sorted(shown)] - 5, atol=0.0101)


def test_the_users_own_files_are_never_replaced(head, track, tmp_path):
    """The photo that a head was learned from often lies beside, under the same name."""
    driver = tmp_path / "me.npz"
    track.save(driver)
    (tmp_path / "me.png").write_bytes(b"the photo")
    drive(head, driver, tmp_path / "me.webp")
    assert (tmp_path / "me.png").read_bytes() == b"the photo"
    clip = tmp_path / "clip.webp"
    clip.symlink_to(tmp_path / "me.webp")
    before = (tmp_path / "me.webp").read_bytes()
    with pytest.raises(InputError, match="is the driver"):
        drive(head, clip, tmp_path / "me.webp")
    assert (tmp_path / "me.webp").read_bytes() == before


def test_a_driver_that_breaks_off_is_told(head, track, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("flax_heads"), "propagate", True)
    cut = dataclasses.replace(track, problem="clip.mp4: is cut off")
    cut.save(tmp_path / "cut.npz")
    drive(head, tmp_path / "cut.npz", tmp_path / "out.webp")
    assert "clip.mp4: is cut off; it drives 20 frames" in caplog.text


def test_drivers_landmarks_are_given_to_the_person(head, track):
    _, points = crop_track(track, SIZE)
    for transfer in ("relative", "absolute"):
        drawn = adapt_landmarks(head.landmarks, points, transfer)
        expected = face_model.transfer(
            head.landmarks, points, relative=transfer == "relative"
        )
        np.testing.assert_array_equal(drawn, expected)
        assert np.abs(drawn - points).max() > 0.5
    as_they_are = adapt_landmarks(head.landmarks, points, "none")
    np.testing.assert_array_equal(as_they_are, points)


def test_crops_keep_the_face_inside(track):
    boxes, points = crop_track(track, SIZE)
    assert len(boxes) == len(points) == 20
    assert np.isfinite(points).all()
    assert (points > -SIZE / 4).all() and (points < SIZE * 1.25).all()


def test_a_face_that_comes_back_elsewhere_stays_in_its_crop(track):
    """Slides between two shots: nothing moves in the crops while nobody is seen."""
    points = np.concatenate([track.landmarks, track.landmarks + [700, 0]])
    points[15:25] = np.nan
    times = np.arange(40) / 25
    gap = dataclasses.replace(track, landmarks=points, frame_time=times)
    boxes, inside = crop_track(gap, SIZE)
    _, before = crop_track(track, SIZE)
    np.testing.assert_allclose(inside[:15], before[:15], atol=0.1)
    assert boxes[15:25] == [boxes[14]] * 10
    assert boxes[25].left - boxes[14].left == pytest.approx(700, abs=20)
    centres = inside.mean(1)
    assert np.ptp(centres, 0).max() < 1.5 * np.ptp(before.mean(1), 0).max() + 1


def test_a_gif_that_stands_still_for_too_long_is_told(head, track, tmp_path):
    times = track.frame_time.copy()
    times[10:] += 700
    dataclasses.replace(track, frame_time=times).save(tmp_path / "track.npz")
    with pytest.raises(InputError, match=r"more than 655 s; name a \.webp or \.mp4"):
        drive(head, tmp_path / "track.npz", tmp_path / "out.gif")
    assert not (tmp_path / "out.gif").exists()


def test_unknown_transfers_are_refused_before_any_work(head, tmp_path):
    with pytest.raises(InputError, match="expected one of relative, absolute, none"):
        drive(head, tmp_path / "missing.mp4", tmp_path / "out.mp4", transfer="face")


@pytest.mark.parametrize("command", ["animate", "evaluate", "sweep"])
def test_commands_offer_every_transfer(command):
    parser = cli._parser()._subparsers._group_actions[0].choices[command]
    assert parser._option_string_actions["--transfer"].choices == TRANSFERS


@pytest.mark.parametrize("name", ["out.avi", "nowhere/out.mp4", "folder_out.mp4"])
def test_bad_output_is_refused_before_any_work(head, track, tmp_path, name):
    track.save(tmp_path / "track.npz")
    (tmp_path / "folder_out.mp4").mkdir()
    with pytest.raises(InputError, match="out"):
        drive(head, tmp_path / "track.npz", tmp_path / name)


def _threads_of_ours():
    return [t for t in threading.enumerate() if t.name == "read_ahead"]


@pytest.mark.parametrize("stage", ["frames", "encoder", "progress"])
def test_a_failing_stage_ends_the_drive_and_its_threads(
    head, track, tmp_path, monkeypatch, stage
):
    pytest.importorskip("av")
    from data_pipeline.video_writer import VideoWriter

    def fail(*_):
        raise {"progress": KeyboardInterrupt}.get(stage, InputError)("as asked")

    def draw_three(self, landmarks):
        yield from [np.zeros((SIZE, SIZE, 3), np.uint8)] * 3
        fail()

    if stage == "frames":
        monkeypatch.setattr(TalkingHead, "animate", draw_three)
    if stage == "encoder":
        monkeypatch.setattr(VideoWriter, "write", fail)
    track.save(tmp_path / "track.npz")
    options = {"on_progress": fail} if stage == "progress" else {}
    with pytest.raises((InputError, KeyboardInterrupt), match="as asked"):
        drive(head, tmp_path / "track.npz", tmp_path / "out.mp4", **options)
    assert not _threads_of_ours()
    assert [path.name for path in tmp_path.iterdir()] == ["track.npz"]


def test_driving_twice_gives_the_same_file(head, track, tmp_path):
    track.save(tmp_path / "track.npz")
    for name in ("a.webp", "b.webp"):
        drive(head, tmp_path / "track.npz", tmp_path / name)
    assert (tmp_path / "a.webp").read_bytes() == (tmp_path / "b.webp").read_bytes()
    assert not _threads_of_ours()


def test_reading_ahead_keeps_the_order_and_its_distance():
    made = []

    def count():
        for i in itertools.count():
            made.append(i)
            yield i

    items = read_ahead(count(), capacity=3)
    assert not made  # nothing happens before the first item is asked for
    for i in range(50):
        assert next(items) == i
        assert len(made) <= i + 1 + 3
    items.close()
    assert not _threads_of_ours()
    assert list(read_ahead(range(100), capacity=1)) == list(range(100))
    assert list(read_ahead([])) == []


def test_the_next_item_is_made_while_one_is_in_use():
    at_work = threading.Event()

    def source():
        yield 0
        at_work.set()
        yield 1

    items = read_ahead(source())
    assert next(items) == 0
    assert at_work.wait(timeout=30)  # without anybody asking for item 1
    assert list(items) == [1]


def test_reading_ahead_raises_after_the_good_items_and_closes_its_source():
    closed = []

    def source():
        try:
            yield from (1, 2)
            raise InputError("broken")
        finally:
            closed.append(threading.current_thread().name)

    taken = []
    with pytest.raises(InputError, match="broken"):
        taken.extend(read_ahead(source()))
    assert taken == [1, 2] and closed == ["read_ahead"]

    items = read_ahead(read_ahead(source(), 1), 1)  # one stage behind another
    next(items)
    items.close()
    assert closed == ["read_ahead"] * 2 and not _threads_of_ours()


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp"])
def test_outputs_say_that_they_are_synthetic(head, track, tmp_path, suffix):
    av = pytest.importorskip("av")
    output = tmp_path / f"out{suffix}"
    drive(head, "clip.npz", output, track=track)
    if suffix == ".mp4":
        with av.open(str(output)) as container:
            said = container.metadata["comment"]
    else:
        with Image.open(output) as picture:
            said = str(picture.info.get("comment") or picture.info["xmp"])
    assert "trainedAlgorithmicMedia" in said and "flax-heads" in said
    with Image.open(tmp_path / "out_sheet.png") as sheet:
        assert "trainedAlgorithmicMedia" in sheet.text["XML:com.adobe.xmp"]
