import errno
import functools
import io
import itertools
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

import av
import numpy as np
import pytest
import rich.console
from PIL import Image

from data_pipeline import filling, geometry, packing, prepare, records, work_files
from data_pipeline.errors import InputError
from data_pipeline.finished import find_datasets
from data_pipeline.images import Limits
from data_pipeline.landmarks import detect_landmarks
from data_pipeline.raster import draw_raster
from data_pipeline.records import Settings, prepare_video
from data_pipeline.video import count_packets, probe
from data_pipeline.voxceleb import Video, find_videos
from tests.moving_face import face_frame, write_clip, write_corpus, write_frames

# protobuf's own generated classes, as TFDS 4.9.10 uses them.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:label\(\) is deprecated:DeprecationWarning"
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> pathlib.Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def _prepare(source, data_dir, **kwargs):
    """The report, and what was printed."""
    console = rich.console.Console(file=io.StringIO(), width=200)
    arguments = {"layout": "voxceleb2", "size": 64, "frames_per_video": 8, "workers": 0}
    report = prepare.prepare(
        source, data_dir=data_dir, console=console, **{**arguments, **kwargs}
    )
    return report, console.file.getvalue()


def _stored(data_dir) -> dict[str, list[bytes]]:
    from data_pipeline import prepared

    readers = {
        split: prepared.open_split(data_dir, split).reader
        for split in prepared.split_names(data_dir)
    }
    return {
        split: [reader.read(i) for i in range(len(reader))]
        for split, reader in readers.items()
    }


def test_a_record_holds_matching_frames_rasters_and_landmarks(corpus):
    video = find_videos(corpus, "voxceleb2")[0]
    example, counts = prepare_video(video, Settings(size=96, frames_per_video=0))
    assert example["video"] == "id1/a" and example["identity"] == "id1"
    assert counts.decoded == counts.kept == len(example["frames"]) == 24
    assert example["landmarks"].shape == (24, 68, 2)
    assert example["landmarks"].dtype == np.float32
    assert example["utterance"] == ["00001"] * 12 + ["00002"] * 12
    np.testing.assert_allclose(
        example["frame_time"][:12], np.arange(12) / 25, atol=1e-3
    )
    for i in (0, 7, 20):
        frame = packing.decode_jpeg(example["frames"][i], 96)
        drawn = np.asarray(Image.open(io.BytesIO(example["rasters"][i])))
        assert frame.shape == drawn.shape == (96, 96, 3)
        np.testing.assert_array_equal(drawn, draw_raster(example["landmarks"][i], 96))
        again = detect_landmarks(frame, "frame")
        error = np.linalg.norm(again - example["landmarks"][i], axis=1).mean()
        assert error < 0.03 * 96


def test_frames_are_picked_evenly_and_the_rest_is_not_tracked(corpus, monkeypatch):
    tracked = []
    update = records.FaceTracker.update
    monkeypatch.setattr(
        records.FaceTracker,
        "update",
        lambda self, frame: tracked.append(1) or update(self, frame),
    )
    video = find_videos(corpus, "voxceleb2")[0]
    example, counts = prepare_video(video, Settings(size=64, frames_per_video=6))
    assert counts.kept == len(tracked) == 6
    assert example["utterance"] == ["00001"] * 3 + ["00002"] * 3
    frames = np.round(example["frame_time"] * 25).astype(int)
    assert frames.tolist() == [0, 4, 8, 0, 4, 8]


@pytest.mark.parametrize(
    "name, options",
    [("live.mkv", {"live": "1"}), ("parts.mp4", {"movflags": "frag_keyframe"})],
)
def test_frames_are_picked_evenly_of_files_that_do_not_say_how_many(
    tmp_path, name, options
):
    """A browser's recording has no length; a fragmented mp4 counts its first part."""
    path = tmp_path / name
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", 25, options={"g": "10"})
        stream.width = stream.height = 128
        for i in range(60):
            frame = av.VideoFrame.from_ndarray(face_frame(128, i / 8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    said = probe(path)
    assert not said.duration_s or said.num_frames < 60
    assert count_packets(path) == 60
    video = Video("anna/a", "anna", "a", "train", (path,))
    example, counts = prepare_video(video, Settings("folder", 64, frames_per_video=6))
    assert counts.kept == 6 and counts.decoded == 60
    times = np.round((example["frame_time"] - example["frame_time"][0]) * 25)
    assert times.astype(int).tolist() == [0, 10, 20, 30, 40, 50]


def test_a_record_ends_where_its_format_does(corpus, monkeypatch):
    monkeypatch.setattr(records, "_MAX_RECORD", 40_000)
    video = find_videos(corpus, "voxceleb2")[0]
    example, counts = prepare_video(video, Settings(size=96, frames_per_video=0))
    sizes = map(len, [*example["frames"], *example["rasters"]])
    assert 30_000 < sum(sizes) <= 40_000 and counts.files == {"too_long": 1}
    assert "id1/a: a record holds" in counts.problems[0]


def test_frames_without_a_face_are_dropped_and_their_neighbours_tried(tmp_path):
    grey = np.full((128, 128, 3), 90, np.uint8)
    frames = [face_frame(128, i / 2) for i in range(16)]
    frames[8:13] = [grey] * 5  # slots of four frames: 8-11 all grey, 12 grey
    write_frames(tmp_path / "mp4/id1/a/1.mp4", frames)
    (video,) = find_videos(tmp_path, "voxceleb2")
    example, counts = prepare_video(video, Settings(size=64, frames_per_video=4))
    times = np.round(example["frame_time"] * 25).astype(int)
    assert times.tolist() == [0, 4, 13]
    assert sum(counts.dropped.values()) == 5 and set(counts.dropped) == {"lost"}


def test_other_footage_is_cropped_around_the_head(tmp_path):
    wide = []
    for i in range(10):
        frame = np.full((240, 400, 3), 60, np.uint8)
        frame[40:200, 20 + 3 * i : 180 + 3 * i] = face_frame(160)
        wide.append(frame)
    write_frames(tmp_path / "anna" / "a.mp4", wide)
    (video,) = find_videos(tmp_path, "folder")
    for wanted in (0, 4):
        settings = Settings("folder", size=64, frames_per_video=wanted)
        example, counts = prepare_video(video, settings)
        assert counts.kept == (wanted or 10)
        assert settings.crop == "follow_head"
        for landmarks in example["landmarks"]:
            box = geometry.head_box(landmarks)
            # Gliding after the head: never far from the ideal framing.
            assert abs(box.left) < 12 and abs(box.top) < 8
            assert abs(box.side - 64) < 10


def test_voxceleb1_boxes_choose_the_person(tmp_path):
    left, right = face_frame(160), face_frame(160)
    right = (right * [1.0, 0.4, 0.4]).astype(np.uint8)  # in red light
    both = np.concatenate([left, right], 1)
    write_frames(tmp_path / "videos/vid.mp4", [both] * 10)
    for identity, x in (("id1", 60), ("id2", 220)):
        path = tmp_path / "txt" / identity / "vid" / "00001.txt"
        path.parent.mkdir(parents=True)
        rows = [f"{i:06d} \t{x} \t40 \t60 \t70 " for i in range(2, 8)]
        path.write_text(
            "\n".join([f"Identity : \t{identity}", "", "FRAME X Y W H", *rows])
        )
    redness = []
    for video in find_videos(tmp_path, "voxceleb1"):
        beats = itertools.count()
        example, counts = prepare_video(
            video, Settings("voxceleb1", 64, 3), functools.partial(next, beats)
        )
        assert next(beats) == 8  # signs of life before the boxes, and no frame after
        assert counts.kept == 3 and counts.decoded == 6
        assert example["frame_time"].min() > 0.07
        frame = packing.decode_jpeg(example["frames"][0], 64)
        red, green, _ = frame[16:48, 16:48].mean((0, 1))
        redness.append(red / green)
    assert redness[1] > 1.6 * redness[0]


@pytest.mark.parametrize("suffix", [".jpg", ".PNG"])
def test_voxceleb1_crops(tmp_path, suffix):
    folder = tmp_path / "Adam_Driver" / "1.6" / "vid"
    folder.mkdir(parents=True)
    for i in range(4):
        Image.fromarray(face_frame(128, 2 * i)).save(
            folder / f"{25 * (i + 1):07d}{suffix}"
        )
    (folder / f"0000050{suffix}").write_bytes(b"broken")
    (video,) = find_videos(tmp_path, "voxceleb1")
    example, counts = prepare_video(video, Settings("voxceleb1", 64, 0))
    assert example["frame_time"].tolist() == [1, 3, 4]
    assert counts.files == {"unreadable": 1} and "0000050" in counts.problems[0]


def test_a_corpus_with_broken_files_is_prepared_and_reported(corpus, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(corpus, source)
    good = source / "mp4/id1/a/00001.mp4"
    (source / "mp4/id1/a/00003.mp4").write_bytes(good.read_bytes()[:-400])
    for name, content in {"e": b"", "f": b"text " * 100}.items():
        (source / f"mp4/id2/{name}").mkdir()
        (source / f"mp4/id2/{name}/1.mp4").write_bytes(content)
    grey = [np.full((128, 128, 3), 90, np.uint8)] * 9
    write_frames(source / "mp4/id3/g/1.mp4", grey)
    data_dir = tmp_path / "data"
    report, printed = _prepare(source, data_dir, test_identities=["id3"], workers=2)
    train, test = report["splits"]["train"], report["splits"]["test"]
    assert (train["videos"], train["videos_without_face"], train["people"]) == (3, 2, 2)
    assert (test["videos"], test["videos_without_face"], test["people"]) == (1, 1, 1)
    assert 20 <= train["frames"] <= 24 and test["frames"] == 8
    assert train["files"]["empty"] == 1 and sum(train["files"].values()) == 3
    assert test["dropped"]["no_face"] > 1
    assert len(report["problems"]) == 3
    assert any("id2/e/1.mp4" in problem for problem in report["problems"])
    assert printed.count("broken file: ") == 3 and "Prepared in" in printed
    assert json.loads((data_dir / "report.json").read_text()) == report
    assert sorted(p.name for p in data_dir.iterdir()) == [
        "report.json",
        "talking_heads",
    ]

    shard = next(data_dir.glob("talking_heads/*/*/*train*"))
    before = shard.stat().st_mtime_ns
    again, printed = _prepare(source, data_dir, test_identities=["id3"])
    assert again == report and "nothing to do" in printed
    assert shard.stat().st_mtime_ns == before
    with pytest.raises(InputError, match="other settings"):
        _prepare(source, data_dir, size=32)


def test_limits_hold_for_corpora_and_are_part_of_the_settings(corpus, tmp_path):
    video = find_videos(corpus, "voxceleb2")[0]
    tight = Settings(size=64, frames_per_video=4, limits=Limits(max_frames=5))
    example, counts = prepare_video(video, tight)
    assert example is None and counts.files == {"too_long": 2}
    assert tight.to_dict()["limits"] == {"max_frames": 5}
    assert "limits" not in Settings().to_dict()  # as in datasets made before
    _prepare(corpus, tmp_path, limits=Limits(max_frames=50))
    with pytest.raises(InputError, match="prepared with other settings"):
        _prepare(corpus, tmp_path)


def test_a_link_to_nothing_costs_one_video(corpus, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(corpus, source)
    lost = next(source.rglob("*.mp4")).with_name("99999.mp4")
    lost.symlink_to(tmp_path / "moved_away.mp4")
    report, text = _prepare(source, tmp_path / "data")
    assert report["splits"]["train"]["files"]["missing"] == 1
    assert report["splits"]["train"]["frames"] > 0 and "99999.mp4" in text


@pytest.mark.parametrize("reason", ["missing_package", "storage"])
def test_what_this_machine_cannot_read_another_may(
    corpus, tmp_path, monkeypatch, reason
):
    """Of a share nothing is written off; the run stops and says why."""

    def fails(path, limits):
        raise InputError(f"{path}: not here, not now.", reason)

    with monkeypatch.context() as patched:
        patched.setattr(records, "read_frames", fails)
        with pytest.raises(InputError, match="not here, not now"):
            _prepare(corpus, tmp_path, share=(0, 1))
    report, text = _prepare(corpus, tmp_path)
    assert report["splits"]["train"]["frames"] > 0
    assert "were finished before" not in text


def test_other_videos_or_another_split_are_not_taken_for_prepared(corpus, tmp_path):
    corpus = next(corpus.rglob("id1")).parent  # with a folder for each person
    _prepare(corpus, tmp_path, layout="folder", test_fraction=0.0)
    (tmp_path / "work").mkdir()  # of a run killed at its very end
    _, text = _prepare(corpus, tmp_path, layout="folder", test_fraction=0.0)
    assert "nothing to do" in text and not (tmp_path / "work").exists()
    with pytest.raises(InputError, match="in another split"):
        _prepare(corpus, tmp_path, layout="folder", test_fraction=0.5)
    _, text = _prepare(tmp_path / "gone", tmp_path, layout="folder")
    assert "nothing to do" in text


def test_nothing_but_faceless_videos_is_an_error(tmp_path):
    write_frames(tmp_path / "s/p/a.mp4", [np.full((64, 64, 3), 90, np.uint8)] * 3)
    with pytest.raises(
        InputError, match=r"no frame of 1 videos was kept.*report\.json"
    ):
        _prepare(tmp_path / "s", tmp_path / "d", layout="folder")
    report = json.loads((tmp_path / "d/report.json").read_text())
    assert report["splits"]["train"]["dropped"] == {"no_face": 3}


def test_storage_that_fails_while_reading_is_no_broken_file(
    corpus, tmp_path, monkeypatch
):
    """A decoder calls it damage; the video would be left out for ever."""
    source = tmp_path / "source"
    shutil.copytree(corpus, source)
    bad = source / "mp4/id2/c/00001.mp4"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:-400])  # as it looks while the drive does not answer

    def stale(path, mode):
        if path == bad:
            raise OSError(errno.ESTALE, "Stale file handle")
        return open(path, mode)

    with monkeypatch.context() as patched:
        patched.setattr(filling, "open", stale, raising=False)
        with pytest.raises(InputError, match=r"00001\.mp4: Stale file handle while"):
            _prepare(source, tmp_path / "data")
    bad.write_bytes(whole)
    report, _ = _prepare(source, tmp_path / "data")
    assert not report["problems"]


def test_a_full_disk_stops_the_run_and_keeps_the_rest(corpus, tmp_path, monkeypatch):
    save = work_files.save_work
    saved = []

    def save_until_full(path, *args):
        if len(saved) == 2:
            raise OSError(28, "No space left on device")
        saved.append(path)
        save(path, *args)

    monkeypatch.setattr(work_files, "save_work", save_until_full)
    with pytest.raises(InputError, match="No space left on device"):
        _prepare(corpus, tmp_path)
    monkeypatch.undo()
    _, printed = _prepare(corpus, tmp_path)
    assert "2 of them were finished before" in printed


def test_what_goes_wrong_while_packing_loses_nothing(corpus, tmp_path, monkeypatch):
    """A full disk, then a kill before the report is written; a user's `work` stays."""
    build, own = prepare._build, [tmp_path / "work/notes.txt", tmp_path / "work/ab/c"]
    own[1].parent.mkdir(parents=True)
    for path in own:
        path.write_text("mine")

    def build_on_a_full_disk(*args, **kwargs):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            build(*args, **kwargs)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(prepare, "_build", build_on_a_full_disk)
        with pytest.raises(InputError, match=r"cannot be written.*make room"):
            _prepare(corpus, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(prepare, "write_report", killed)
        with pytest.raises(KeyboardInterrupt):
            _prepare(corpus, tmp_path)
    report, text = _prepare(corpus, tmp_path)
    assert "nothing to do" in text
    assert report == json.loads((tmp_path / "report.json").read_text())
    assert sum(split["frames"] for split in report["splits"].values()) == 32
    assert sorted(p for p in tmp_path.glob("work/**/*") if p.is_file()) == sorted(own)
    with pytest.raises(InputError, match="in another split"):
        _prepare(corpus, tmp_path, test_identities=["id1"])


def test_a_damaged_work_file_is_made_again(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "_build", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        _prepare(corpus, tmp_path)
    monkeypatch.undo()
    path = max(tmp_path.glob("work/*/*.npz"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"{path.name}: was damaged"):
        _prepare(corpus, tmp_path)
    report, printed = _prepare(corpus, tmp_path)
    assert "3 of them were finished before" in printed
    assert sum(split["frames"] for split in report["splits"].values()) == 32


def test_another_file_of_the_same_name_is_not_taken_for_prepared(corpus, tmp_path):
    source, data_dir = tmp_path / "source", tmp_path / "data"
    shutil.copytree(corpus, source)
    _prepare(source, data_dir)
    write_clip(source / "mp4/id1/b/00001.mp4", num_frames=5)
    with pytest.raises(InputError, match="before some of their files changed"):
        _prepare(source, data_dir)
    report = json.loads((data_dir / "report.json").read_text())
    del report["corpus"]["files"]  # as versions before wrote it
    (data_dir / "report.json").write_text(json.dumps(report))
    assert "nothing to do" in _prepare(source, data_dir)[1]


def test_what_is_lost_with_its_process_gets_a_second_try(corpus, tmp_path, monkeypatch):
    """The kernel kills for want of memory, and mostly a worker."""
    monkeypatch.setattr(filling, "_prepare_one", _die_once)
    report, printed = _prepare(corpus, tmp_path, workers=2)
    assert "once more, fewer at once" in printed and not report["problems"]
    assert sum(split["frames"] for split in report["splits"].values()) == 32


def _die_once(task, beat, settings):
    video, path = task
    died = path.parents[2] / "died"
    if video.key == "id1/b" and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    work_files.save_work(path, *prepare_video(video, settings, beat))
    return work_files.load_counts(path)


def test_a_changed_source_is_done_again(corpus, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(corpus, source)
    folder = tmp_path / "work"
    path = source / "mp4/id1/b/00001.mp4"

    def names():
        return [
            work_files.work_file(folder, video, settings)
            for video in find_videos(source, "voxceleb2")
        ]

    settings = Settings(size=64)
    before = names()
    assert before == names()
    write_clip(path, num_frames=5)
    assert [a == b for a, b in zip(before, names())] == [True, False, True, True]
    settings = Settings(size=65)
    assert not set(before) & set(names())


def test_a_killed_run_goes_on_where_it_stopped(corpus, tmp_path, monkeypatch):
    source = tmp_path / "source"
    for i in range(3):
        shutil.copytree(corpus / "mp4", source / "mp4", dirs_exist_ok=True)
        for person in ("id1", "id2", "id3"):
            shutil.copytree(corpus / "mp4" / person, source / f"mp4/{person}{i}")
    data_dir = tmp_path / "killed"
    command = (
        "from data_pipeline.prepare import prepare; prepare("
        f"{str(source)!r}, 'voxceleb2', {str(data_dir)!r}, size=64, "
        "frames_per_video=8, workers=1)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", command],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    try:
        while len(list(data_dir.glob("work/*/*.npz"))) < 4:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
    process.communicate()  # until the orphaned worker has ended, with the video it had
    finished = set(data_dir.glob("work/*/*.npz"))
    assert 4 <= len(finished) < 16
    torn = min(finished)
    torn.write_bytes(torn.read_bytes()[:1000])  # as after a power cut

    redone = []
    run_tasks = filling.run_tasks

    def watched(function, tasks, *args):
        redone.extend(path for _, path in tasks)
        return run_tasks(function, tasks, *args)

    monkeypatch.setattr(filling, "run_tasks", watched)
    report, printed = _prepare(source, data_dir)
    assert set(redone) & finished == {torn}
    assert len(redone) == 16 - len(finished) + 1
    assert f"{len(finished) - 1} of them were finished before" in printed
    assert not (data_dir / "work").exists()

    whole, _ = _prepare(source, tmp_path / "whole")
    for split in report["splits"].values():  # times differ
        split.pop("worker_seconds"), split.pop("frames_per_second")
    for split in whole["splits"].values():
        split.pop("worker_seconds"), split.pop("frames_per_second")
    assert report["splits"] == whole["splits"]
    assert _stored(data_dir) == _stored(tmp_path / "whole")


def test_a_second_one_in_the_same_folder_is_refused(corpus, tmp_path):
    """Each would clear what the other has half packed."""
    with work_files.alone(tmp_path):
        with pytest.raises(InputError, match="another `prepare` is at work here"):
            _prepare(corpus, tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_told_before_any_work(corpus, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        InputError, match=r"file/data: cannot be written to \(Not a dir"
    ):
        _prepare(corpus, tmp_path / "file/data")


def test_a_beam_runner_makes_the_same_records_and_resumes(
    corpus, tmp_path, monkeypatch
):
    """Two of its worker processes, which see nothing but files; then nothing to do."""
    ours, _ = _prepare(corpus, tmp_path / "ours")
    options = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    beam = dict(runner="DirectRunner", beam_options=options)
    monkeypatch.setattr(prepare, "_build", lambda *args, **kwargs: 1 / 0)
    monkeypatch.setattr(filling, "_BATCH", 2)
    with pytest.raises(ZeroDivisionError):
        _prepare(corpus, tmp_path / "beam", **beam)
    monkeypatch.undo()
    theirs, printed = _prepare(corpus, tmp_path / "beam", **beam)
    assert "4 of them were finished before" in printed
    for split in (*ours["splits"].values(), *theirs["splits"].values()):
        split.pop("worker_seconds"), split.pop("frames_per_second")
    assert theirs["splits"] == ours["splits"]
    assert _stored(tmp_path / "beam") == _stored(tmp_path / "ours")


def test_a_crash_under_beam_costs_one_video(corpus, tmp_path, monkeypatch):
    """The process that dies is not the runner's worker, and the video is not retried."""
    tasks = [
        (video, work_files.work_file(tmp_path, video, Settings(size=64)))
        for video in find_videos(corpus, "voxceleb2")
    ]
    monkeypatch.setattr(filling, "_prepare_one", _die_on_the_second)
    results = dict(filling.fill_by_beam(tasks, Settings(size=64), "DirectRunner"))
    kept = [results[video].kept for video, _ in tasks]
    assert kept[1] == 0 and all(kept[:1] + kept[2:])
    assert "died" in results[tasks[1][0]].problems[0]
    assert work_files.load_counts(tasks[1][1]) is not None


def _die_on_the_second(task, beat, settings):
    video, path = task
    if video == find_videos(video.utterances[0].parents[3], "voxceleb2")[1]:
        os._exit(139)
    work_files.save_work(path, *prepare_video(video, settings, beat))
    return work_files.load_counts(path)


def test_shares_of_several_machines_make_the_whole(corpus, tmp_path):
    whole, _ = _prepare(corpus, tmp_path / "whole")
    for i in range(3):
        report, printed = _prepare(corpus, tmp_path / "shared", share=(i, 3))
        assert f"Share {i}/3 is finished" in printed
    assert not find_datasets(tmp_path / "shared")
    _, printed = _prepare(corpus, tmp_path / "shared")
    assert "4 of them were finished before" in printed
    assert _stored(tmp_path / "shared") == _stored(tmp_path / "whole")


def test_tfds_builds_the_same_records_by_itself(corpus, tmp_path):
    """What `tfds build` runs: Beam from the files to the records."""
    from data_pipeline.talking_heads_dataset_builder import HeadsConfig, TalkingHeads

    _prepare(corpus, tmp_path / "ours")
    settings = Settings("voxceleb2", 64, 8)
    config = HeadsConfig(
        name="voxceleb2_64", settings=settings, source=str(corpus), test_fraction=0.1
    )
    TalkingHeads(data_dir=tmp_path / "tfds", config=config).download_and_prepare()
    assert _stored(tmp_path / "tfds") == _stored(tmp_path / "ours")


def test_real_clips(samples, tmp_path):
    source = tmp_path / "source"
    for name in ("fullbody_720x1080.mp4", "hard_two_faces_960x540.mp4"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).symlink_to(samples / "raw" / name)
    for name in ("text_renamed", "bitflips", "audio_only", "truncated_no_moov"):
        (source / f"{name}.mp4").symlink_to(samples / "bad" / f"{name}.mp4")
    report, _ = _prepare(source, tmp_path / "d", layout="folder", test_fraction=0.0)
    train = report["splits"]["train"]
    assert train["videos"] == 3  # bitflips.mp4 keeps what came before the damage
    assert train["files"] == {"unreadable": 2, "no_video": 1, "truncated": 1}
