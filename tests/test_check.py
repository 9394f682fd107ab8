"""`flax-heads check`: damage is named, numbers are true, leaks are seen."""

import io
import json

import numpy as np
import pytest
import rich.console

from data_pipeline import shards
from data_pipeline.leaks import find_leaks
from tests import small_dataset

# protobuf's own generated classes, as TFDS 4.9.10 uses them.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:label\(\) is deprecated:DeprecationWarning"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    small_dataset.make(folder)
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    """The dataset, to be damaged."""
    return small_dataset.copy(small_dataset.in_folder(folder), tmp_path)


def _check(path, **kwargs):
    from data_pipeline.check import check_dataset

    return check_dataset(path, **kwargs)


def _run(path, compare_people=False):
    from flax_heads.check import run_check

    console = rich.console.Console(file=io.StringIO(), width=300)
    code = run_check(path, compare_people=compare_people, console=console)
    return code, console.file.getvalue()


def test_an_intact_dataset(folder):
    report = _check(folder / "data", pictures_per_video=0)
    assert report["checksums"] and not report["problems"] and not report["warnings"]
    train, test = report["splits"]["train"], report["splits"]["test"]
    assert (train["people"], train["videos"], train["frames"]) == (6, 6, 24)
    assert (test["people"], test["videos"], test["frames"]) == (2, 2, 8)
    assert train["frames_per_video"] == [4, 4, 4] and train["damaged_videos"] == 0
    assert 0.1 < train["eye_distance"][0] <= train["eye_distance"][2] < 0.5
    assert json.loads(json.dumps(report)) == report
    code, text = _run(folder / "data")
    assert code == 0 and "Intact: every file" in text


def test_one_face_in_both_splits_is_seen(folder):
    """All clips show the same photograph, under eight names."""
    code, text = _run(folder / "data", compare_people=True)
    assert code == 0 and "look like one person" in text and "see the warnings" in text


def test_a_flipped_bit_is_named(copy):
    bad = small_dataset.damage_a_record(copy)
    report = _check(copy)
    path = small_dataset.shard_of(copy)
    assert [p.split(";")[0] for p in report["problems"][:1]] == [
        f"{path}: its checksum is not that of the manifest"
    ]
    assert f"{path}: record {bad} is damaged" in report["problems"][1]
    assert len(report["problems"]) == 2
    assert report["splits"]["train"]["damaged_videos"] == 1
    code, text = _run(copy)
    assert code == 1 and "NOT INTACT: 2 problems" in text


def test_a_bit_in_the_padding_is_seen_by_the_checksum_alone(copy):
    path = small_dataset.shard_of(copy)
    data = bytearray(path.read_bytes())
    at = max(i for i in range(len(data) - 40_000, len(data) - 1000) if not data[i])
    data[at] ^= 1
    path.write_bytes(data)
    assert len(_check(copy)["problems"]) == 1


@pytest.mark.parametrize("name", ["metadata.json", "features.json", "shard"])
def test_every_file_of_the_manifest_is_read(copy, name):
    path = small_dataset.shard_of(copy, "test") if name == "shard" else copy / name
    path.write_bytes(path.read_bytes() + b"\n")
    assert any(p.startswith(f"{path}: ") for p in _check(copy)["problems"])


def test_a_missing_file_is_a_problem(copy):
    small_dataset.shard_of(copy, "test").unlink()
    code, text = _run(copy)
    assert code == 1 and "missing" in text


def test_rasters_of_other_landmarks_are_seen(copy):
    def swap(records):
        import tensorflow as tf

        example = tf.train.Example.FromString(records[0])
        other = example.features.feature["rasters"].bytes_list.value[3]
        return [small_dataset.edit(records[0], "rasters", 0, other), *records[1:]]

    small_dataset.rewrite(copy, swap)
    (problem,) = _check(copy)["problems"]
    assert "record 0" in problem and "rasters of other landmarks" in problem


def test_without_a_manifest_it_says_so_and_preparing_again_writes_one(folder):
    dataset = small_dataset.in_folder(folder)
    (dataset / shards.MANIFEST).unlink()
    report = _check(dataset)
    assert not report["checksums"] and "no manifest.json" in report["warnings"][0]
    small_dataset.prepare_again(folder)
    assert _check(dataset)["checksums"]


def test_leaks_by_name_by_picture_and_by_face():
    digests = {
        "train": [np.array([1, 2], np.uint64), np.array([3], np.uint64)],
        "test": [np.array([2, 9], np.uint64)],
    }
    near = np.eye(128)[0]
    people = {
        "train": (["anna", "bert"], {0: near, 1: 5 * np.eye(128)[1]}),
        "test": (["carl"], {0: near + 0.2 * np.eye(128)[2]}),
    }
    leaks, alike, nearest = find_leaks(digests, people)
    assert len(leaks) == 1 and "1 frames" in leaks[0]
    assert len(alike) == 1 and "anna in train and carl in test" in alike[0]
    assert nearest[0]["distance"] == pytest.approx(0.2)
    people["test"] = (["bert"], {0: -near})
    leaks, alike, nearest = find_leaks(digests, people)
    assert "e.g. bert" in leaks[0] and not alike
    assert nearest[0]["distance"] == pytest.approx(2.0)
