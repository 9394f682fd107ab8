"""The TFDS dataset `talking_heads`: one record per video, frames encoded one by one.

`flax-heads prepare` makes the records and lets this pack them. By itself it does all of
it on Beam, with a runner of your choice and without resuming:

    tfds build talking_heads --imports=data_pipeline.talking_heads_dataset_builder \
        --config=voxceleb2 --manual_dir=/data/VoxCeleb2 --data_dir=/data/tfds
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_datasets as tfds

from data_pipeline.records import Settings, prepare_video
from data_pipeline.voxceleb import LAYOUTS, Video, find_videos

NAME = "talking_heads"


@dataclasses.dataclass(kw_only=True)
class HeadsConfig(tfds.core.BuilderConfig):
    """One way to prepare one corpus.

    Attributes:
      settings: of the records.
      test_fraction, test_identities: who is held out, see `voxceleb.find_videos`.
      source: the corpus; without it, TFDS's manual directory.
      examples: split -> (key, example) pairs that are made already, to be packed in
        this process; without it, Beam makes them.
    """

    settings: Settings = dataclasses.field(default_factory=Settings)
    test_fraction: float = 0.1
    test_identities: Collection[str] = ()
    source: str | None = None
    examples: Mapping[str, Iterable[tuple[str, Any]]] | None = None


class TalkingHeads(tfds.core.GeneratorBasedBuilder):
    """Records of up to `frames_per_video` faces of one video of one person."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012 (the name is TFDS's)
    BUILDER_CONFIGS = [  # noqa: RUF012
        HeadsConfig(
            name=layout,
            description=f"256 px, 64 frames per video, from {expected}",
            settings=Settings(layout=layout),
        )
        for layout, expected in LAYOUTS.items()
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put the corpus, or a link to it, into the manual directory: "
        + "; ".join(f"{layout}: {expected}" for layout, expected in LAYOUTS.items())
    )

    def __init__(self, *args, file_format: str | None = None, **kwargs):
        # Training reads single records in random order, which TFRecord cannot.
        super().__init__(*args, file_format=file_format or "array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        settings = self.builder_config.settings
        shape = (settings.size, settings.size, 3)
        return tfds.core.DatasetInfo(
            builder=self,
            description="Frames of talking heads with their 68 facial landmarks, in "
            "pixels of the frame, and the landmarks drawn as rasters.",
            features=tfds.features.FeaturesDict(
                {
                    "video": tfds.features.Text(),
                    "identity": tfds.features.Text(),
                    "utterance": tfds.features.Sequence(tfds.features.Text()),
                    "frame_time": tfds.features.Tensor(shape=(None,), dtype=np.float32),
                    "frames": tfds.features.Sequence(
                        tfds.features.Image(shape=shape, encoding_format="jpeg")
                    ),
                    "rasters": tfds.features.Sequence(
                        tfds.features.Image(shape=shape, encoding_format="png")
                    ),
                    "landmarks": tfds.features.Tensor(
                        shape=(None, 68, 2), dtype=np.float32
                    ),
                }
            ),
            metadata=tfds.core.MetadataDict(
                size=settings.size,
                crop=settings.crop,
                style=dataclasses.asdict(settings.style),
                settings=settings.to_dict(),
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        config = self.builder_config
        if config.examples is not None:
            return dict(config.examples)
        source = pathlib.Path(config.source or dl_manager.manual_dir)
        videos = find_videos(
            source, config.settings.layout, config.test_fraction, config.test_identities
        )
        splits = sorted({video.split for video in videos}, reverse=True)
        return {
            split: self._generate_examples([v for v in videos if v.split == split])
            for split in splits
        }

    def _generate_examples(self, videos: list[Video]) -> beam.PTransform:
        settings = self.builder_config.settings
        return (
            beam.Create(videos)
            | beam.Reshuffle()
            | beam.FlatMap(_keyed_example, settings=settings)
        )


def _keyed_example(video: Video, settings: Settings) -> Iterable[tuple[str, Any]]:
    """Beam's worker: (key, example), or nothing. Counts show up in its metrics."""
    example, counts = prepare_video(video, settings)
    tally = {"frames_kept": counts.kept, "frames_decoded": counts.decoded}
    tally |= {f"dropped_{reason}": n for reason, n in counts.dropped.items()}
    tally |= {f"files_{reason}": n for reason, n in counts.files.items()}
    for name, count in tally.items():
        beam.metrics.Metrics.counter(NAME, name).inc(count)
    if example is not None:
        yield video.key, example
