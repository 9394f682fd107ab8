"""Damaged records are named and replaced, up to a limit, alike in every run."""

import itertools
import json
import subprocess
import sys
import types

import numpy as np
import pytest

from data_pipeline.errors import InputError
from tests import small_dataset

# protobuf's own generated classes, as TFDS 4.9.10 uses them.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:label\(\) is deprecated:DeprecationWarning"
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset.make(tmp_path_factory.mktemp("small"))


@pytest.fixture
def copy(dataset, tmp_path):
    """The dataset, to be damaged."""
    return small_dataset.copy(dataset, tmp_path)


def _records(path, max_damaged=0.5):
    from data_pipeline.input_pipeline import Records

    return Records(path, "train", max_damaged)


def _take(records, count, **kwargs):
    settings = {"seed": 3, "start_step": 0, "batch_size": 4, "num_support": 2}
    batches = records.batches(**{**settings, **kwargs})
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def _assert_equal(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others):
        for key in batch:
            np.testing.assert_array_equal(batch[key], other[key], err_msg=key)


def _assert_replaced_alike(copy, whole, bad):
    """Only the episodes of the damaged video differ, and every run has the same."""
    records = _records(copy)
    batches = _take(records, 9)
    assert list(records.damaged) == [records.videos[bad]]
    replaced = 0
    for batch, good in zip(batches, whole):
        assert bad not in batch["video_index"]
        same = good["video_index"] != bad
        replaced += int((~same).sum())
        for key in batch:
            np.testing.assert_array_equal(batch[key][same], good[key][same])
    assert replaced == 6  # 36 episodes of 6 videos
    assert records.num_replaced >= replaced  # some were read ahead
    _assert_equal(_take(_records(copy), 4, start_step=5), batches[5:])
    halves = [
        _take(_records(copy), 9, process_index=p, process_count=2) for p in (0, 1)
    ]
    joined = [{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*halves)]
    _assert_equal(joined, batches)


def test_a_damaged_record_is_named_and_replaced(dataset, copy, caplog):
    bad = small_dataset.damage_a_record(copy)
    _assert_replaced_alike(copy, _take(_records(dataset), 9), bad)
    warned = [r.getMessage() for r in caplog.records if "is left out" in r.getMessage()]
    assert f"array_record-00000-of-00001: record {bad}" in warned[0]


def test_a_picture_that_cannot_be_decoded_is_named_and_replaced(dataset, copy):
    def spoil(records):
        for i in range(4):
            records[2] = small_dataset.edit(records[2], "frames", i, b"\xff\xd8 no")
        return records

    small_dataset.rewrite(copy, spoil)
    _assert_replaced_alike(copy, _take(_records(dataset), 9), 2)


def test_one_bad_picture_costs_the_episodes_that_need_it(dataset, copy):
    def spoil(records):
        records[2] = small_dataset.edit(records[2], "rasters", 1, b"\x89PNG")
        return records

    small_dataset.rewrite(copy, spoil)
    batches = _take(_records(copy), 12)
    whole = _take(_records(dataset), 12)
    kept = sum((b["video_index"] == 2).sum() for b in batches)
    assert 0 < kept < sum((b["video_index"] == 2).sum() for b in whole)
    for start in (3, 7):  # whatever was met before
        _assert_equal(
            _take(_records(copy), 12 - start, start_step=start), batches[start:]
        )


def test_more_damage_than_allowed_ends_the_run(copy, capfd):
    small_dataset.damage_a_record(copy)
    with pytest.raises(InputError, match=r"1 of the 6 videos .* allows 0") as caught:
        _take(_records(copy, max_damaged=0.1), 9)
    assert caught.value.reason == "too_damaged"
    assert "Traceback" not in capfd.readouterr().err  # of TensorFlow's
    with pytest.raises(InputError, match="max_damaged must be"):
        _records(copy, max_damaged=1.0)


def test_a_damaged_file_is_left_out_or_refused_at_once(copy, caplog):
    small_dataset.rewrite(copy, num_shards=3)
    path = small_dataset.shard_of(copy, index=1)
    path.write_bytes(path.read_bytes()[:-9])
    records = _records(copy)
    assert len(records.damaged) == 2
    assert f"2 videos are left out: {path}" in caplog.text
    for batch in _take(records, 6):
        assert not set(batch["video_index"].tolist()) & {2, 3}
    with pytest.raises(InputError, match=f"2 of the 6 videos .*{path.name}"):
        _records(copy, max_damaged=0.2)
    path.unlink()
    with pytest.raises(InputError, match=f"{path.name}: missing"):
        _records(copy)


def test_records_in_another_order_than_the_index_says_are_noticed(copy):
    small_dataset.rewrite(copy, lambda records: [records[1], records[0], *records[2:]])
    records = _records(copy)
    _take(records, 6)
    assert set(records.damaged) == set(records.videos[:2])
    assert all("as the index says" in text for text in records.damaged.values())


def test_an_archive_leaves_damaged_videos_out(dataset, copy):
    from data_pipeline.records_in_memory import archive_from_records

    bad = small_dataset.damage_a_record(copy)
    whole = archive_from_records(dataset)
    partial = archive_from_records(copy, max_damaged=0.2)
    assert partial.videos == [v for i, v in enumerate(whole.videos) if i != bad]
    kept = np.flatnonzero(np.repeat(np.arange(6) != bad, 4))
    np.testing.assert_array_equal(partial.frames, whole.frames[kept])
    with pytest.raises(InputError, match="allows 0"):
        archive_from_records(copy)


@pytest.mark.parametrize(
    "name, value",
    [
        ("shardLengths", ["-1"]),
        ("shardLengths", []),
        ("shardLengths", ["99999999999"]),
        ("filepathTemplate", "../{DATASET}-{SPLIT}"),
        ("filepathTemplate", "/etc/passwd"),
        ("filepathTemplate", 3),
    ],
)
def test_a_description_that_lies_is_refused(copy, name, value):
    info = json.loads((copy / "dataset_info.json").read_text())
    info["splits"][0][name] = value
    (copy / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(InputError, match="does not describe a dataset"):
        _records(copy)


def test_a_format_without_random_access_is_refused(copy):
    info = json.loads((copy / "dataset_info.json").read_text())
    (copy / "dataset_info.json").write_text(
        json.dumps(info | {"fileFormat": "riegeli"})
    )
    with pytest.raises(InputError, match="no random access"):
        _records(copy)


def test_a_program_that_reads_and_ends_does_end(dataset):
    """TensorFlow's threads once called into an interpreter that was gone."""
    code = (
        "import sys; from data_pipeline.input_pipeline import Records\n"
        f"batches = Records({str(dataset)!r}).batches(0, 0, 4, 2)\n"
        "next(batches), next(batches)\n"
        "sys.exit(5)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=100)
    assert done.returncode == 5


def test_one_of_many_processes_sees_that_too_much_is_damaged(dataset, monkeypatch):
    """It meets a small part of the videos: a count of all would take it epochs."""
    several = _records(dataset, max_damaged=0.01)
    monkeypatch.setattr(several, "videos", [str(v) for v in range(100_000)])
    read = []

    def damaged_in_three(index, landmarks):
        read.append(index)
        if index % 3 == 0:
            raise InputError("damaged")
        return {"landmarks": np.zeros((1, 68, 2))}

    monkeypatch.setattr(
        several, "_prepared", types.SimpleNamespace(read=damaged_in_three)
    )
    with pytest.raises(InputError, match="videos that this process read") as caught:
        list(several.examples(range(100_000)))
    assert caught.value.reason == "too_damaged" and len(read) < 30


def test_as_much_damage_as_is_allowed_stops_nothing(dataset, monkeypatch):
    several = _records(dataset, max_damaged=0.01)
    monkeypatch.setattr(several, "videos", [str(v) for v in range(100_000)])
    damaged = set(np.random.default_rng(0).permutation(100_000)[:1000].tolist())

    def read(index, landmarks):
        if index in damaged:
            raise InputError("damaged")
        return {"landmarks": np.zeros((1, 68, 2))}

    monkeypatch.setattr(several, "_prepared", types.SimpleNamespace(read=read))
    assert len(list(several.examples(range(100_000)))) == 99_000


def test_more_files_than_a_process_may_open_are_allowed_or_named():
    """From 64 GiB on a split has 1,024 shards, as many as most systems allow at first."""
    program = """
import resource
from data_pipeline.shards import _allow_open_files
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
_allow_open_files(1024)
assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 1024
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
_allow_open_files(1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "has 1024 files" in last and "`ulimit -n " in last
