"""Videos in and out: true times, upright pictures, sound; no bad file gets through."""

import fractions
import struct
import time

import av
import numpy as np
import pytest

from data_pipeline.errors import InputError
from data_pipeline.images import Limits
from data_pipeline.video import probe, read_frames
from data_pipeline.video_writer import VideoWriter


def frames_of(count, height=48, width=64):
    """uint8 [count, H, W, 3]: a bright square that moves over a ramp."""
    y, x = np.mgrid[:height, :width]
    ramp = np.stack([x * 2, y * 2, np.full_like(x, 60)], axis=-1).astype(np.uint8)
    frames = np.repeat(ramp[None], count, axis=0)
    for i, frame in enumerate(frames):
        frame[8:24, 2 * i % (width - 16) :][:, :16] = (250, 200, 40)
    return frames


def write(path, frames, times=None, fps=25.0, **options):
    _, height, width, _ = frames.shape
    with VideoWriter(path, width, height, fps, **options) as writer:
        for i, frame in enumerate(frames):
            writer.write(frame, None if times is None else times[i])
    return path


def write_raw(
    path, frames, codec="libx264", container=None, audio=None, turn=0, aspect=None
):
    """A file by PyAV alone, with features that `VideoWriter` does not have."""
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=25)
        _, stream.height, stream.width, _ = frames.shape
        stream.pix_fmt = "yuv420p"
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if turn:
            stream.set_display_rotation(turn)
        sound = None
        if audio is not None:
            sound = output.add_stream(audio[0], rate=16_000, layout="mono")
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        output.mux(stream.encode())
        if sound is not None:
            output.mux(sound.encode(audio_frame(audio[1])))
            output.mux(sound.encode())
    return path


def audio_frame(wave):
    frame = av.AudioFrame.from_ndarray(
        (wave * 32000).astype(np.int16)[None], "s16", "mono"
    )
    frame.sample_rate = 16_000
    frame.pts = 0
    return frame


def tone(seconds, onset=0.0):
    """float64 [N] at 16 kHz: silence, then 440 Hz from `onset` seconds."""
    t = np.arange(int(seconds * 16_000)) / 16_000
    return 0.5 * np.sin(2 * np.pi * 440 * t) * (t >= onset)


def read_sound(path):
    """Samples float64 [N] of the first audio stream, its rate, its start in s."""
    with av.open(str(path)) as container:
        pieces, start = [], None
        for frame in container.decode(audio=0):
            if start is None:
                start = frame.time - (container.start_time or 0) / 1e6
            pieces.append(frame.to_ndarray().astype(np.float64).mean(axis=0))
            rate = frame.sample_rate
    return np.concatenate(pieces), rate, start


def onset_of(path):
    wave, rate, start = read_sound(path)
    loud = np.abs(wave) > 0.2 * np.abs(wave).max()
    return start + np.argmax(loud) / rate


def failure(path, reason, **options):
    """The error of a file, and how many frames came before."""
    count = 0
    with pytest.raises(InputError) as caught:
        for _ in read_frames(path, **options):
            count += 1
    message = str(caught.value)
    assert caught.value.reason == reason, message
    assert "\n" not in message and str(path) in message
    return count, message


# Timing and pictures.


def test_round_trip_of_pictures_and_sizes(tmp_path):
    frames = frames_of(12)
    path = write(tmp_path / "a.mp4", frames)
    info = probe(path)
    assert (info.width, info.height, info.fps) == (64, 48, 25.0)
    assert (info.num_frames, info.has_audio) == (12, False)
    assert info.duration_s == pytest.approx(12 / 25)
    times, read = zip(*read_frames(path))
    np.testing.assert_allclose(times, np.arange(12) / 25, atol=1e-4)
    assert all(f.dtype == np.uint8 and f.shape == (48, 64, 3) for f in read)
    difference = np.abs(np.array(read, float) - frames)
    assert difference.mean() < 4  # colours included: half resolution in 4:2:0


def test_hd_without_a_colour_tag_is_taken_as_players_take_it(tmp_path):
    colour = (230, 200, 180)
    path = tmp_path / "hd.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", 25)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        frame = av.VideoFrame.from_ndarray(
            np.full((720, 1280, 3), colour, np.uint8), format="rgb24"
        ).reformat(format="yuv420p", dst_colorspace="ITU709")
        frame.colorspace = 2  # of which the file says nothing
        container.mux([*stream.encode(frame), *stream.encode(None)])
    ((_, read),) = read_frames(path)
    assert np.abs(read.mean((0, 1)) - colour).max() < 3


def test_flat_colours_survive(tmp_path):
    for colour in [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 150, 120), (9, 9, 9)]:
        frames = np.full((2, 32, 32, 3), colour, np.uint8)
        path = write(tmp_path / "a.mp4", frames)
        for _, frame in read_frames(path):
            np.testing.assert_allclose(frame, frames[0], atol=4)


def test_variable_timing_round_trips(tmp_path):
    times = np.cumsum([0.0, 0.04, 0.033, 0.2, 0.01, 0.0417, 0.5, 0.033])
    path = write(tmp_path / "a.mp4", frames_of(8), times=7.25 + times, fps=22.13)
    read = [t for t, _ in read_frames(path)]
    np.testing.assert_allclose(read, times, atol=2e-5)


@pytest.mark.parametrize("size", [(47, 64), (48, 63), (33, 35)])
def test_odd_sizes_are_padded_not_stretched(tmp_path, size):
    frames = frames_of(4, *size)
    path = write(tmp_path / "a.mp4", frames)
    _, frame = next(read_frames(path))
    assert frame.shape[0] % 2 == 0 and frame.shape[1] % 2 == 0
    assert np.abs(frame[: size[0], : size[1]].astype(float) - frames[0]).mean() < 4


@pytest.mark.parametrize("turn", [90, 180, -90])
def test_rotation_is_applied(tmp_path, turn):
    frames = np.zeros((3, 48, 64, 3), np.uint8)
    frames[:, :24, :32] = 255  # white corner, top left as stored
    path = write_raw(tmp_path / "a.mp4", frames, turn=turn)
    _, frame = next(read_frames(path))
    wanted = np.rot90(frames[0], turn // 90)  # counter-clockwise, as FFmpeg counts
    assert frame.shape == wanted.shape and frame.flags.c_contiguous
    assert np.abs(frame.astype(float) - wanted).mean() < 6
    info = probe(path)
    assert (info.height, info.width) == wanted.shape[:2]


@pytest.mark.parametrize("aspect", [(2, 1), (1, 2), (16, 15)])
def test_pixels_become_square(tmp_path, aspect):
    path = tmp_path / "a.mp4"
    write_raw(path, frames_of(3, 60, 60), aspect=fractions.Fraction(*aspect))
    _, frame = next(read_frames(path))
    height, width, _ = frame.shape
    assert width / height == pytest.approx(aspect[0] / aspect[1], rel=0.01)
    assert min(height, width) == 60
    assert (probe(path).width, probe(path).height) == (width, height)


@pytest.mark.parametrize(
    "codec, container, suffix",
    [
        ("mpeg1video", "mpeg", "mpg"),
        ("mpeg4", "avi", "avi"),
        ("libx264", "matroska", "mkv"),
        ("libvpx", "webm", "webm"),
        ("libx264", "mpegts", "ts"),
    ],
)
def test_other_containers(tmp_path, codec, container, suffix):
    path = tmp_path / f"a.{suffix}"
    write_raw(path, frames_of(10, 64, 64), codec=codec, container=container)
    times, read = zip(*read_frames(path))
    assert len(read) == 10 and read[0].shape == (64, 64, 3)
    np.testing.assert_allclose(np.diff(times), 0.04, atol=2e-3)
    assert 0.0 <= times[0] < 0.1


def test_decode_threads_give_the_same_frames(tmp_path):
    path = write(tmp_path / "a.mp4", frames_of(9))
    one = [f for _, f in read_frames(path)]
    two = [f for _, f in read_frames(path, decode_threads=2)]
    np.testing.assert_array_equal(one, two)


# Bad files.


def test_truncated_gives_the_good_frames_first(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (30, 48, 64, 3), np.uint8)
    path = write(tmp_path / "a.mp4", noise)  # its index lies in front
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    count, message = failure(path, "truncated")
    assert 5 < count < 25
    path.write_bytes(data[: len(data) // 100])
    assert failure(path, "unreadable")[0] == 0


def test_a_cut_between_packets_is_noticed(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), np.uint8)
    path = write(tmp_path / "a.mp4", noise)
    with av.open(str(path)) as container:
        ends = sorted(e.pos + e.size for e in container.streams.video[0].index_entries)
    path.write_bytes(path.read_bytes()[: ends[14]])
    count, _ = failure(path, "truncated")
    assert count <= 15


def test_limits_of_decoding_time_bytes_and_streams(tmp_path):
    path = write(tmp_path / "a.mp4", frames_of(30))
    failure(path, "too_slow", limits=Limits(max_decode_seconds=1e-9))
    failure(path, "too_large", limits=Limits(max_bytes=100))
    many = tmp_path / "many.mkv"
    with av.open(str(many), "w") as output:
        streams = [output.add_stream("mpeg4", rate=25) for _ in range(5)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frame = av.VideoFrame.from_ndarray(frames_of(1)[0], "rgb24")
        for stream in streams:
            output.mux(stream.encode(frame))
            output.mux(stream.encode())
    assert sum(1 for _ in read_frames(many)) == 1
    failure(many, "too_many_streams", limits=Limits(max_streams=4))


def test_work_on_the_frames_is_no_decoding_time(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4", frames_of(12))
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for _ in read_frames(path, Limits(max_decode_seconds=1.0)):
        now += 100  # a second and more of work on every frame
    assert now == 1200


def test_size_change_is_refused(tmp_path):
    path = tmp_path / "a.mpg"
    parts = []
    for size in (64, 80):
        part = tmp_path / f"{size}.mpg"
        write_raw(part, frames_of(6, size, size), codec="mpeg1video", container="mpeg")
        parts.append(part.read_bytes())
    path.write_bytes(b"".join(parts))
    count, _ = failure(path, "size_changes")
    assert count >= 1


def test_a_list_of_other_files_is_not_opened(tmp_path):
    secret = write(tmp_path / "secret.mp4", frames_of(3))
    path = tmp_path / "a.mp4"
    path.write_text(f"ffconcat version 1.0\nfile {secret.name}\n")
    failure(path, "unreadable")
    path.write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n"
    )
    failure(path, "unreadable")


@pytest.mark.parametrize(
    "name", ["http://localhost/a.mp4", "concat:a.mp4|b.mp4", "a\0b"]
)
def test_names_are_never_protocols(name):
    with pytest.raises(InputError):
        next(read_frames(name))


def test_missing_empty_folder_text(tmp_path):
    failure(tmp_path / "none.mp4", "missing")
    failure(tmp_path, "not_a_file")
    path = tmp_path / "a.mp4"
    path.touch()
    failure(path, "empty")
    path.write_text("this is not a video\n" * 50)
    failure(path, "unreadable")


def test_sound_only(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as output:
        sound = output.add_stream("aac", rate=16_000, layout="mono")
        output.mux(sound.encode(audio_frame(tone(0.5))))
        output.mux(sound.encode())
    failure(path, "no_video")
    with pytest.raises(InputError, match="no video stream"):
        probe(path)


def test_limits(tmp_path):
    path = write(tmp_path / "a.mp4", frames_of(30))
    assert failure(path, "too_large", limits=Limits(max_pixels=48 * 64 - 1))[0] == 0
    assert failure(path, "too_small", limits=Limits(min_side=49))[0] == 0
    assert failure(path, "too_long", limits=Limits(max_frames=29))[0] == 0
    assert failure(path, "too_long", limits=Limits(max_seconds=1.0))[0] == 0
    # A container which does not tell its length is stopped on the way.
    path = tmp_path / "a.mpg"
    write_raw(path, frames_of(30, 64, 64), codec="mpeg1video", container="mpeg")
    assert failure(path, "too_long", limits=Limits(max_frames=20))[0] == 20


def test_mutants_end_in_frames_or_one_line(tmp_path):
    source = write_raw(tmp_path / "s.mp4", frames_of(10), audio=("aac", tone(0.4)))
    data = np.frombuffer(source.read_bytes(), np.uint8)
    rng = np.random.default_rng(3)
    path = tmp_path / "m.mp4"
    outcomes = set()
    for _ in range(80):
        mutant = data.copy()
        at = rng.integers(0, len(data), 12)
        mutant[at] = rng.integers(0, 256, 12)
        path.write_bytes(mutant.tobytes())
        try:
            for _, frame in read_frames(path, Limits(max_frames=100)):
                assert frame.dtype == np.uint8
            outcomes.add("frames")
        except InputError as error:
            assert "\n" not in str(error) and path.name in str(error)
            outcomes.add(error.reason)
    assert len(outcomes) > 1


def test_sample_videos(samples):
    expected = {
        "audio_only.mp4": ("no_video", 0),
        "bitflips.mp4": ("truncated", 31),
        "text_renamed.mp4": ("unreadable", 0),
        "truncated_faststart.mp4": ("truncated", 48),
        "truncated_no_moov.mp4": ("unreadable", 0),
        "zero_byte.mp4": ("empty", 0),
        "not_audio.wav": ("unreadable", 0),
    }
    good = {"no_face_gradient.mp4": 50, "no_face_noise.mp4": 75, "one_frame.mp4": 1}
    seen = 0
    for path in sorted((samples / "bad").iterdir()):
        if path.suffix not in (".mp4", ".wav"):
            # Pictures handed over as videos.
            with pytest.raises(InputError, match=path.name):
                list(read_frames(path))
        elif path.name in expected:
            reason, frames = expected[path.name]
            assert failure(path, reason)[0] == frames
        else:
            assert sum(1 for _ in read_frames(path)) == good[path.name]
        seen += 1
    assert seen == 21


def test_sample_with_variable_rate_and_late_start(samples):
    times = [t for t, _ in read_frames(samples / "raw" / "interview_700x700_vfr.mp4")]
    assert len(times) == 135
    assert len(set(np.round(np.diff(times), 3))) > 1
    time, frame = next(read_frames(samples / "raw" / "grid_360x288.mpg"))
    assert time == 0.0 and frame.shape == (288, 360, 3)


# Writing.


@pytest.mark.parametrize(
    "codec, container, how",
    [
        ("aac", "mp4", "copied"),
        ("libmp3lame", "mp4", "copied"),
        ("mp2", "mpeg", "encoded"),
    ],
)
def test_sound_is_kept_in_step(tmp_path, codec, container, how):
    video = "mpeg1video" if container == "mpeg" else "libx264"
    driver = tmp_path / f"driver.{container}"
    write_raw(
        driver,
        frames_of(50, 64, 64),
        video,
        container,
        audio=(codec, tone(2.0, onset=1.0)),
    )
    frames = list(read_frames(driver))[10:45]  # 0.4 s to 1.8 s
    path = tmp_path / "a.mp4"
    with VideoWriter(path, 64, 64, 25, audio_from=driver) as writer:
        for time, frame in frames:
            writer.write(frame, time)
    assert writer.audio == how
    info = probe(path)
    assert info.has_audio and info.num_frames == 35
    wave, rate, _ = read_sound(path)
    assert len(wave) / rate == pytest.approx(1.4, abs=0.1)
    expected = onset_of(driver) - frames[0][0]
    assert onset_of(path) == pytest.approx(expected, abs=0.04)


def test_copied_sound_is_the_same_packets(tmp_path):
    driver = write_raw(tmp_path / "d.mp4", frames_of(20), audio=("aac", tone(0.8)))
    path = tmp_path / "a.mp4"
    with VideoWriter(path, 64, 48, 25, audio_from=driver) as writer:
        for time, frame in read_frames(driver):
            writer.write(frame, time)

    def packets(name):
        with av.open(str(name)) as container:
            return [bytes(p) for p in container.demux(audio=0) if p.size]

    kept, source = packets(path), packets(driver)
    assert kept and kept == source[: len(kept)] and len(source) - len(kept) <= 1
    # The decoded sound agrees from the first sample on.
    a, b = read_sound(path)[0], read_sound(driver)[0]
    np.testing.assert_allclose(a[:8000], b[:8000], atol=1e-6)


def test_sound_from_a_wav_file(tmp_path):
    wav = tmp_path / "a.wav"
    with av.open(str(wav), "w") as output:
        sound = output.add_stream("pcm_s16le", rate=16_000, layout="mono")
        output.mux(sound.encode(audio_frame(tone(1.0, onset=0.5))))
    path = write(tmp_path / "a.mp4", frames_of(25), audio_from=wav)
    assert onset_of(path) == pytest.approx(0.5, abs=0.03)


def test_silent_source_and_bad_source(tmp_path):
    silent = write(tmp_path / "silent.mp4", frames_of(3))
    path = write(tmp_path / "a.mp4", frames_of(3), audio_from=silent)
    assert not probe(path).has_audio
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF" + bytes(50))
    with pytest.raises(InputError, match=r"bad\.wav"):
        VideoWriter(tmp_path / "b.mp4", 64, 48, 25, audio_from=bad)
    assert not (tmp_path / "b.mp4").exists()


@pytest.mark.parametrize("rate, codec", [(12_345, None), (16_000, 0x7777)])
def test_odd_sound_is_converted_or_left_out(tmp_path, rate, codec):
    """A rate that AAC does not know; a codec that nobody knows."""
    sound = tmp_path / "a.wav"
    with av.open(str(sound), "w") as output:
        stream = output.add_stream("pcm_s16le", rate=rate, layout="mono")
        frame = audio_frame(tone(1.0))
        frame.sample_rate = rate
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    if codec is not None:
        data = bytearray(sound.read_bytes())
        at = data.index(b"fmt ") + 8
        data[at : at + 2] = codec.to_bytes(2, "little")
        sound.write_bytes(data)
    path = write(tmp_path / "a.mp4", frames_of(12), audio_from=sound)
    assert sum(1 for _ in read_frames(path)) == 12
    assert probe(path).has_audio == (codec is None)


def test_sound_of_a_broken_driver_ends_where_it_breaks(tmp_path):
    driver = write_raw(tmp_path / "d.mp4", frames_of(20), audio=("aac", tone(0.8)))
    whole = write(tmp_path / "w.mp4", frames_of(20), audio_from=driver)
    data = whole.read_bytes()  # index in front
    driver.write_bytes(data[: int(len(data) * 0.6)])
    path = tmp_path / "a.mp4"
    with VideoWriter(path, 64, 48, 25, audio_from=driver) as writer:
        with pytest.raises(InputError):
            for time, frame in read_frames(driver):
                writer.write(frame, time)
    assert 1 <= sum(1 for _ in read_frames(path)) < 20


def test_failure_leaves_nothing_and_keeps_the_old_file(tmp_path):
    path = write(tmp_path / "a.mp4", frames_of(5))
    old = path.read_bytes()
    with pytest.raises(RuntimeError, match="model"):
        with VideoWriter(path, 64, 48, 25) as writer:
            writer.write(frames_of(1)[0])
            assert len(list(tmp_path.iterdir())) == 2  # the unfinished one
            raise RuntimeError("the model failed")
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    assert path.read_bytes() == old
    with pytest.raises(InputError, match="no frame"), VideoWriter(path, 64, 48, 25):
        pass
    assert path.read_bytes() == old and len(list(tmp_path.iterdir())) == 1


def test_output_may_replace_its_own_driver(tmp_path):
    path = write_raw(tmp_path / "d.mp4", frames_of(10), audio=("aac", tone(0.4)))
    write(path, frames_of(10), audio_from=path)
    assert probe(path).has_audio


def test_wrong_frames_and_places(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 64, 48, 25) as writer:
        writer.write(frames_of(1)[0], 1.0)
        with pytest.raises(ValueError, match="uint8"):
            writer.write(frames_of(1)[0].astype(np.float32))
        with pytest.raises(ValueError, match="uint8"):
            writer.write(frames_of(1, 64, 48)[0])
        with pytest.raises(ValueError, match="after"):
            writer.write(frames_of(1)[0], 0.5)
    for path in (tmp_path / "none" / "a.mp4", tmp_path):
        with pytest.raises(InputError) as caught:
            VideoWriter(path, 64, 48, 25)
        assert caught.value.reason == "unwritable" and str(path) in str(caught.value)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("down", [1, -1])
@pytest.mark.parametrize("across", [1, -1])
def test_mirrored_files_are_shown_as_players_show_them(tmp_path, across, down, swap):
    """All eight display matrices of right angles, written into the file's header."""
    frames = np.zeros((3, 48, 64, 3), np.uint8)
    frames[:, :24, :32] = 255
    path = write_raw(tmp_path / "a.mp4", frames)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 * 6 + 16
    turn = (0, down, 0, across, 0, 0) if swap else (across, 0, 0, 0, down, 0)
    matrix = [v << 16 for v in turn] + [0, 0, 1 << 30]
    data[at : at + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(data)
    _, frame = next(read_frames(path))
    wanted = frames[0].transpose(1, 0, 2) if swap else frames[0]
    wanted = wanted[::down, ::across]
    assert frame.shape == wanted.shape
    assert np.abs(frame.astype(float) - wanted).mean() < 6


def test_times_that_differ_by_less_than_a_tick_are_kept_apart(tmp_path):
    """As after a time stamp that is there twice, where the next is nearly repeated."""
    times = [0.0, 0.04, 0.04 + 1e-9, 0.08]
    path = tmp_path / "a.mp4"
    with VideoWriter(path, 64, 48, 25) as writer:
        for time, frame in zip(times, frames_of(4)):
            writer.write(frame, time)
        with pytest.raises(ValueError, match="does not come after"):
            writer.write(frames_of(1)[0], 0.08)
    found = [time for time, _ in read_frames(path)]
    np.testing.assert_allclose(found, times, atol=1e-4)


@pytest.mark.parametrize("change", ["time goes back", "another layout"])
def test_pictures_outlive_sound_that_an_mp4_cannot_hold(tmp_path, change):
    """Joined transport streams: the second part's sound is odd, its pictures are not."""
    parts = [tmp_path / "1.ts", tmp_path / "2.ts"]
    for part, layout in zip(
        parts, ("mono", "stereo" if "layout" in change else "mono")
    ):
        with av.open(str(part), "w", format="mpegts") as output:
            sound = output.add_stream("mp2", rate=16_000, layout=layout)
            wave = np.repeat(tone(1.0), 2 if layout == "stereo" else 1)
            frame = av.AudioFrame.from_ndarray(
                (wave * 32000).astype(np.int16)[None], "s16", layout
            )
            frame.sample_rate = 16_000
            frame.pts = 16_000 if "layout" in change and part == parts[1] else 0
            frame.time_base = fractions.Fraction(1, 16_000)
            output.mux(sound.encode(frame))
            output.mux(sound.encode())
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    path = tmp_path / "a.mp4"
    with VideoWriter(path, 64, 48, 25, audio_from=joined) as writer:
        for frame in frames_of(50):
            writer.write(frame)
    assert sum(1 for _ in read_frames(path)) == 50
    wave, rate, _ = read_sound(path)
    assert 0.8 < len(wave) / rate < 2.2
