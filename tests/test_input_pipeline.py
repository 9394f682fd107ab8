import itertools
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import rich.console

from data_pipeline.errors import InputError
from data_pipeline.prepare import prepare
from data_pipeline.raster import RasterStyle, draw_raster
from tests.moving_face import write_corpus

# protobuf's own generated classes, as TFDS 4.9.10 uses them.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:label\(\) is deprecated:DeprecationWarning"
)
STYLE = RasterStyle(line_width=3.0, inner_lips=False)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> pathlib.Path:
    """A prepared corpus: three videos of two people to train, one to test."""
    folder = tmp_path_factory.mktemp("prepared")
    prepare(
        write_corpus(folder / "corpus"),
        "voxceleb2",
        folder / "data",
        size=64,
        frames_per_video=10,
        workers=0,
        test_identities=["id3"],
        style=STYLE,
        console=rich.console.Console(quiet=True),
    )
    return folder / "data"


@pytest.fixture
def copy(data_dir, tmp_path) -> pathlib.Path:
    """The dataset's folder, to be damaged."""
    shutil.copytree(data_dir, tmp_path / "data")
    return next((tmp_path / "data").glob("talking_heads/*/1.0.0"))


def _records(*args):
    from data_pipeline.input_pipeline import Records

    return Records(*args)


def _take(reader, count: int, **kwargs) -> list[dict]:
    settings = {"seed": 2, "start_step": 0, "batch_size": 4, "num_support": 3}
    batches = reader.batches(**{**settings, **kwargs})
    with_end = list(itertools.islice(batches, count))
    batches.close()
    return with_end


def _assert_equal(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others):
        assert batch.keys() == other.keys()
        for key in batch:
            assert batch[key].dtype == other[key].dtype
            np.testing.assert_array_equal(batch[key], other[key], err_msg=key)


def test_a_dataset_describes_itself(data_dir):
    records = _records(data_dir)
    assert (records.num_videos, records.size, records.crop) == (3, 64, "whole_frame")
    assert records.style == STYLE
    assert sorted(records.videos) == ["id1/a", "id1/b", "id2/c"]
    assert dict(zip(records.videos, records.identities))["id2/c"] == "id2"
    assert records.frames_per_video.tolist() == [10, 10, 10]
    assert _records(data_dir, "test").videos == ["id3/d"]


def test_batches_are_those_of_the_archive_of_the_same_records(data_dir):
    from data_pipeline.records_in_memory import archive_from_records

    archive = archive_from_records(data_dir)
    records = _records(data_dir)
    batches = _take(records, 5)
    assert batches[0]["support_frames"].shape == (4, 3, 64, 64, 3)
    assert batches[0]["target_raster"].shape == (4, 64, 64, 3)
    assert batches[0]["video_index"].dtype == np.int32
    _assert_equal(batches, _take(archive, 5))
    assert archive.videos == records.videos
    assert archive.style == STYLE


def test_resume_replays_nothing_and_processes_share_the_batch(data_dir):
    records = _records(data_dir)
    whole = _take(records, 6)
    _assert_equal(_take(records, 2, start_step=4), whole[4:])
    halves = [_take(records, 6, process_index=p, process_count=2) for p in (0, 1)]
    joined = [
        {key: np.concatenate([first[key], second[key]]) for key in first}
        for first, second in zip(*halves)
    ]
    _assert_equal(joined, whole)


def test_augmented_batches_are_those_of_the_archive_too(data_dir):
    from data_pipeline.records_in_memory import archive_from_records

    records, strong = _records(data_dir), {"identity_augmentation": 1.0}
    batches = _take(records, 4, **strong)
    _assert_equal(batches, _take(archive_from_records(data_dir), 4, **strong))
    _assert_equal(_take(records, 1, start_step=3, **strong), batches[3:])
    plain = _take(records, 4)
    assert (batches[0]["target_frame"] != plain[0]["target_frame"]).any()


def test_a_smaller_archive_draws_its_own_rasters(data_dir):
    from data_pipeline.records_in_memory import archive_from_records

    small = archive_from_records(data_dir, "test", size=32)
    assert small.frames.shape == (10, 32, 32, 3)
    full = archive_from_records(data_dir, "test")
    np.testing.assert_allclose(small.landmarks, (full.landmarks + 0.5) / 2 - 0.5)
    expected = draw_raster(small.landmarks[3], 32, STYLE)
    np.testing.assert_array_equal(small.rasters[3], expected)
    blocks = full.frames.reshape(10, 32, 2, 32, 2, 3).mean((2, 4))
    assert np.abs(blocks - small.frames).mean() < 4
    with pytest.raises(InputError, match="no archive of 128 px"):
        archive_from_records(data_dir, "test", size=128)


def test_only_the_videos_chosen_are_read(data_dir):
    """An evaluation of fifty videos must not decode a split of thousands."""
    from data_pipeline.records_in_memory import archive_from_records

    whole, read = archive_from_records(data_dir), []

    def choose(records):
        one = records._read
        records._read = lambda index, landmarks: (
            read.append(index) or one(index, landmarks)
        )
        return [2, 0]

    chosen = archive_from_records(data_dir, choose=choose)
    assert read == [2, 0]
    assert chosen.videos == [whole.videos[2], whole.videos[0]]
    np.testing.assert_array_equal(chosen.frames, whole.select([2, 0]).frames)


def test_what_cannot_be_drawn_is_refused_at_once(data_dir):
    records = _records(data_dir)
    with pytest.raises(InputError, match="lower num_support"):
        _take(records, 1, num_support=10)
    with pytest.raises(InputError, match="multiple of the 3 processes"):
        _take(records, 1, process_count=3)


def test_the_index_is_made_again_where_it_is_missing_or_wrong(copy):
    expected = _records(copy).videos
    index = copy / "index_train.npz"
    for damage in (index.unlink, lambda: index.write_bytes(b"x")):
        damage()
        assert _records(copy).videos == expected
        assert index.stat().st_size > 100


def test_missing_and_unfinished_datasets_are_user_errors(data_dir, copy, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        _records(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no dataset"):
        _records(tmp_path / "empty")
    (tmp_path / "empty" / "work").mkdir()
    with pytest.raises(InputError, match="not finished; run `flax-heads prepare`"):
        _records(tmp_path / "empty")
    with pytest.raises(InputError, match="no split valid, only t"):
        _records(data_dir, "valid")
    shutil.copytree(copy, copy.parents[1] / "other" / "1.0.0")
    with pytest.raises(InputError, match="several datasets"):
        _records(tmp_path / "data")
    assert _records(copy).num_videos == 3


def test_rasters_of_another_version_are_refused(copy):
    metadata = json.loads((copy / "metadata.json").read_text())
    metadata["style"]["version"] = 99
    (copy / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(InputError, match="rasters of version 99"):
        _records(copy)


@pytest.mark.parametrize("damage", ["gone", "cut", "empty"])
def test_damaged_shards_are_found_when_opened(copy, damage):
    (shard,) = copy.glob("*train.array_record*")
    data = shard.read_bytes()
    if damage == "gone":
        shard.unlink()
    else:
        shard.write_bytes(data[: len(data) // 2] if damage == "cut" else b"")
    with pytest.raises(InputError, match="prepare` again"):
        _records(copy)


def test_a_flipped_bit_is_found_when_its_record_is_read(copy):
    (shard,) = copy.glob("*train.array_record*")
    data = bytearray(shard.read_bytes())
    data[len(data) // 4] ^= 16
    shard.write_bytes(data)
    with pytest.raises(InputError, match=r"damaged|cannot be read"):
        _take(_records(copy), 3)


def test_tensorflow_leaves_the_accelerator_alone():
    """Its build for CPUs has none to leave alone, so what it is told is looked at."""
    code = (
        "import tensorflow as tf\n"
        "told = []\n"
        "tf.config.set_visible_devices = lambda *devices: told.append(devices)\n"
        "import data_pipeline.input_pipeline\n"
        "assert told == [([], 'GPU')], told\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_the_builder_and_the_input_pipeline_load_tensorflow():
    code = (
        "import sys; import data_pipeline.prepare, data_pipeline.archive; "
        "bad = {'tensorflow', 'tensorflow_datasets', 'apache_beam', 'jax', 'flax'}; "
        "sys.exit(str(bad & set(sys.modules)) if bad & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
