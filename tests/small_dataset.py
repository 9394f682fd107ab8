"""A prepared dataset of many short videos, and ways to damage it."""

import json
import pathlib
import shutil

import rich.console

from data_pipeline import shards
from data_pipeline.prepare import prepare
from data_pipeline.shards import ShardReader, find_shards
from tests.moving_face import write_clip

PEOPLE = 8  # of whom two are held out


def make(folder: pathlib.Path) -> pathlib.Path:
    """Six people to train on and two to test, 4 frames each; the dataset's folder."""
    for person in range(PEOPLE):
        path = folder / f"corpus/mp4/id{person}/v/00001.mp4"
        write_clip(path, num_frames=4, size=96, phase=person)
    prepare_again(folder)
    return in_folder(folder)


def prepare_again(folder: pathlib.Path) -> None:
    prepare(
        *(folder / "corpus", "voxceleb2", folder / "data"),
        size=32,
        frames_per_video=4,
        workers=0,
        test_identities=["id6", "id7"],
        console=rich.console.Console(quiet=True),
    )


def in_folder(folder: pathlib.Path) -> pathlib.Path:
    return next((folder / "data").glob("talking_heads/*/1.0.0"))


def copy(dataset: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(dataset, folder / "dataset"))


def shard_of(dataset: pathlib.Path, split: str = "train", index: int = 0):
    return find_shards(dataset)[split][index].path


def damage_a_record(dataset: pathlib.Path) -> int:
    """Flips bits until exactly one record of `train` is damaged; which."""
    path = shard_of(dataset)
    whole = path.read_bytes()
    for at in range(len(whole) // 9, len(whole), len(whole) // 9):
        data = bytearray(whole)
        data[at] ^= 16
        path.write_bytes(data)
        reader = ShardReader(find_shards(dataset)["train"])
        bad = [i for i in range(len(reader)) if _is_damaged(reader, i)]
        if len(bad) == 1:
            return bad[0]
    raise AssertionError("no such place")


def _is_damaged(reader: ShardReader, index: int) -> bool:
    try:
        reader.read(index)
    except ValueError:
        return True
    return False


def rewrite(dataset: pathlib.Path, change=lambda records: records, num_shards=1):
    """Stores the changed records of `train` in files that are in order."""
    from array_record.python.array_record_module import ArrayRecordWriter

    old = find_shards(dataset)["train"]
    reader = ShardReader(old)
    records = change([reader.read(i) for i in range(len(reader))])
    for shard in old:
        shard.path.unlink()
    share = len(records) // num_shards
    for i in range(num_shards):
        name = f"talking_heads-train.array_record-{i:05d}-of-{num_shards:05d}"
        writer = ArrayRecordWriter(str(dataset / name), "group_size:1")
        for record in records[i * share : (i + 1) * share]:
            writer.write(record)
        writer.close()
    info = json.loads((dataset / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = [str(share)] * num_shards
    assert info["splits"][0]["name"] == "train"
    (dataset / "dataset_info.json").write_text(json.dumps(info))
    shards.write_manifest(dataset)


def edit(record: bytes, name: str, index: int, value: bytes) -> bytes:
    """A record with another value in one of its lists of bytes."""
    import tensorflow as tf

    example = tf.train.Example.FromString(record)
    example.features.feature[name].bytes_list.value[index] = value
    return example.SerializeToString()
