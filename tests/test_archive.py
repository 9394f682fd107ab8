import itertools
import json

import numpy as np
import pytest

from data_pipeline import packing, safe_files
from data_pipeline.archive import (
    Archive,
    load_archive,
    make_archive,
    render_archive,
)
from data_pipeline.errors import InputError
from data_pipeline.raster import RasterStyle, draw_raster

SIZE = 32


@pytest.fixture
def archive() -> Archive:
    """Six videos of three people; a frame's colour tells which one it is."""
    rng = np.random.default_rng(0)
    lengths = [5, 4, 2, 6, 5, 4]
    count = sum(lengths)
    shades = np.arange(count, dtype=np.uint8)[:, None, None, None] * 9
    frames = np.broadcast_to(shades, (count, SIZE, SIZE, 3)).copy()
    landmarks = rng.uniform(0, SIZE, (count, 68, 2)).astype(np.float32)
    videos = [f"p{v // 2}/v{v}" for v in range(6)]
    identities = [f"p{v // 2}" for v in range(6)]
    return make_archive(frames, landmarks, lengths, videos, identities)


def _take(archive: Archive, count: int, **kwargs) -> list[dict]:
    settings = {"seed": 1, "start_step": 0, "batch_size": 4, "num_support": 3}
    return list(itertools.islice(archive.batches(**{**settings, **kwargs}), count))


def test_batches_hold_frames_of_one_video_with_their_rasters(archive):
    seen = set()
    for batch in _take(archive, 20):
        assert batch["support_frames"].shape == (4, 3, SIZE, SIZE, 3)
        assert batch["support_rasters"].shape == (4, 3, SIZE, SIZE, 3)
        assert batch["target_frame"].shape == (4, SIZE, SIZE, 3)
        assert batch["video_index"].dtype == np.int32
        for b, video in enumerate(batch["video_index"]):
            seen.add(int(video))
            first, end = archive.video_offset[video : video + 2]
            frames = [*batch["support_frames"][b], batch["target_frame"][b]]
            rasters = [*batch["support_rasters"][b], batch["target_raster"][b]]
            rows = [int(frame[0, 0, 0]) // 9 for frame in frames]
            assert len(set(rows)) == 4
            assert all(first <= row < end for row in rows)
            for row, picture in zip(rows, rasters):
                expected = draw_raster(archive.landmarks[row], SIZE)
                np.testing.assert_array_equal(picture, expected)
    assert seen == {0, 1, 3, 4, 5}  # video 2 has two frames only


def test_resume_and_processes_give_the_same_batches(archive):
    whole = _take(archive, 6)
    resumed = _take(archive, 3, start_step=3)
    halves = [_take(archive, 6, process_index=p, process_count=2) for p in (0, 1)]
    for key in whole[0]:
        np.testing.assert_array_equal(whole[4][key], resumed[1][key])
        for step in range(6):
            joined = np.concatenate([halves[0][step][key], halves[1][step][key]])
            np.testing.assert_array_equal(whole[step][key], joined)


def test_select_and_split_keep_people_apart(archive):
    part = archive.select([3, 0])
    assert part.videos == ["p1/v3", "p0/v0"]
    assert part.frames_per_video.tolist() == [6, 5]
    np.testing.assert_array_equal(part.frames[:6], archive.frames[11:17])
    np.testing.assert_array_equal(part.rasters[6:], archive.rasters[:5])

    for test in (0.34, ["p2"]):
        train, held_out = archive.split_by_identity(test)
        assert not set(train.identities) & set(held_out.identities)
        assert train.num_videos == 4 and held_out.num_videos == 2
    assert archive.split_by_identity(0.0)[1].num_videos == 0
    with pytest.raises(InputError, match="no video of nobody"):
        archive.split_by_identity(["nobody"])


def test_a_saved_archive_comes_back(archive, tmp_path):
    path = tmp_path / "deep" / "a.npz"
    archive.save(path)
    loaded = load_archive(path)
    assert np.abs(loaded.frames.astype(int) - archive.frames).max() <= 2  # JPEG
    for name in ("landmarks", "rasters", "video_offset"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(archive, name))
    assert loaded.videos == archive.videos
    assert loaded.identities == archive.identities
    assert loaded.style == archive.style
    assert [p.name for p in path.parent.iterdir()] == ["a.npz"]


def test_the_style_travels_with_the_archive(archive, tmp_path):
    style = RasterStyle(line_width=8.0, inner_lips=False)
    other = make_archive(
        archive.frames,
        archive.landmarks,
        archive.frames_per_video,
        archive.videos,
        archive.identities,
        style,
    )
    assert (other.rasters != archive.rasters).any()
    other.save(tmp_path / "a.npz")
    loaded = load_archive(tmp_path / "a.npz")
    assert loaded.style == style
    np.testing.assert_array_equal(loaded.rasters, other.rasters)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text", "pickle", "other"])
def test_damaged_archives_are_user_errors(archive, tmp_path, damage):
    path = tmp_path / "a.npz"
    archive.save(path)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 3] ^= 4
    path.write_bytes(
        {
            "cut": data[: len(data) // 2],
            "empty": b"",
            "text": b"no archive",
        }.get(damage, data)
    )
    if damage == "pickle":
        np.savez(path, header=np.array([{"a": 1}], dtype=object))
    if damage == "other":
        np.savez(path, x=np.zeros(3))
    with pytest.raises(InputError, match=r"a\.npz: not a readable archive") as caught:
        load_archive(path)
    assert "\n" not in str(caught.value)


def test_an_archive_that_asks_for_much_memory_is_refused(archive, tmp_path):
    path = tmp_path / "a.npz"
    archive.save(path)
    needed = 2 * archive.frames.nbytes  # with the rasters
    load_archive(path, max_bytes=needed)
    with pytest.raises(InputError, match="more memory than the limit"):
        load_archive(path, max_bytes=needed - 1)
    stored = safe_files.read_npz(path, 10**8)
    header = safe_files.parse_json(stored["header"].tobytes()) | {"size": 32_000}
    stored["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    packing.save_npz(path, **stored)
    with pytest.raises(InputError, match="more memory than the limit"):
        load_archive(path, max_bytes=10**9)


def test_a_frame_of_another_size_is_refused_before_it_is_decoded():
    blob = packing.encode_jpeg(np.zeros((40, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="not of 32 px"):
        packing.decode_jpeg(blob, 32)
    start = blob.index(b"\xff\xc0") + 5  # the height and the width follow
    blob = blob[:start] + b"\x20\x00\x20\x00" + blob[start + 4 :]
    with pytest.raises(ValueError, match="8192"):
        packing.decode_jpeg(blob, 32)
    with pytest.raises(ValueError, match="damaged frame"):
        packing.decode_jpeg(b"no picture", 32)


def test_a_missing_archive_is_a_user_error(tmp_path):
    with pytest.raises(InputError, match="no such archive"):
        load_archive(tmp_path / "nothing.npz")


def test_rendered_archives_do_not_depend_on_the_workers():
    alone = render_archive(2, 3, 32, seed=4, num_workers=0)
    assert alone.frames.shape == (6, 32, 32, 3)
    assert alone.frames_per_video.tolist() == [3, 3]
    assert (alone.frames[:3] != alone.frames[3:]).any()
    spread = render_archive(2, 3, 32, seed=4, num_workers=2)
    np.testing.assert_array_equal(alone.frames, spread.frames)
    np.testing.assert_array_equal(alone.landmarks, spread.landmarks)
