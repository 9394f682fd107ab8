"""Whom an evaluation judges, and on what: photos, landmarks that drive, the truth."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np

from data_pipeline.archive import Archive, render_archive
from data_pipeline.errors import InputError
from data_pipeline.reenactment import Reenactment, render_reenactments
from flax_heads.animate import adapt_landmarks
from flax_heads.console import log, progress
from flax_heads.meta_model import MetaModel
from flax_heads.training_data import Episodes, open_episodes

MODES = ("self", "cross")
SYNTHETIC = "synthetic"  # in place of a folder of data: people rendered afresh
_PEOPLE_SEED = 1_000_000  # of theirs, far from those that models train on


@dataclasses.dataclass(frozen=True)
class Case:
    """One person whom the model never saw.

    Attributes:
      video, identity: names.
      photos: uint8 [T, S, S, 3], the first t of them are the source of t shots.
      photo_landmarks: float32 [T, 68, 2].
      driving: float32 [F, 68, 2], the landmarks that drive, as they were found.
      frames: uint8 [F, S, S, 3], the truth.
      landmarks: float32 [F, 68, 2], the truth's; in self-reenactment these drive.
      driver: the name of the other person who drives; None in self-reenactment.
      driver_frame: uint8 [S, S, 3], the first frame of that person.
    """

    video: str
    identity: str
    photos: np.ndarray
    photo_landmarks: np.ndarray
    driving: np.ndarray
    frames: np.ndarray
    landmarks: np.ndarray
    driver: str | None = None
    driver_frame: np.ndarray | None = None

    @property
    def arrays(self) -> list[np.ndarray]:
        """All that is given and all that is scored against."""
        sources = [self.photos, self.photo_landmarks, self.driving]
        return [*sources, self.frames, self.landmarks]

    def wanted(self, shots: int, transfer: str) -> np.ndarray:
        """The landmarks to draw, [F, 68, 2]: another driver's are adapted."""
        if self.driver is None:
            return self.driving
        sources = self.photo_landmarks[:shots]
        return adapt_landmarks(sources, self.driving, transfer)


def self_cases(
    model: MetaModel,
    data_dir: str | None,
    num_photos: int,
    num_frames: int,
    num_videos: int,
    seed: int,
) -> list[Case]:
    """Self-reenactment: frames of a video drive a person from other frames of it.

    Args:
      model: whose config says what the data is.
      data_dir: prepared records whose `test` split to use, or `SYNTHETIC`; by default
        the people that the model's training kept aside.
      num_photos, num_frames: T and F.
      num_videos: at most so many; of different people as far as they go.
      seed: of the choice of frames.

    Raises:
      InputError: no held-out people, or videos with too few frames.
    """
    needed = num_photos + num_frames
    people = _held_out_archive(model, data_dir, needed, num_videos)
    cases = []
    for video in choose_videos(people, needed, num_videos):
        sources, targets = split(people, video, num_photos, num_frames, seed)
        cases.append(
            Case(
                video=people.videos[video],
                identity=people.identities[video],
                photos=people.frames[sources],
                photo_landmarks=people.landmarks[sources],
                driving=people.landmarks[targets],
                frames=people.frames[targets],
                landmarks=people.landmarks[targets],
            )
        )
    return cases


def cross_cases(
    model: MetaModel,
    data_dir: str | None,
    num_photos: int,
    num_frames: int,
    num_videos: int,
) -> list[Case]:
    """Cross-reenactment of rendered people, of whom the truth is known.

    Args: as `self_cases`.

    Raises:
      InputError: the data is not rendered.
    """
    if not _is_rendered(model, data_dir):
        raise InputError(
            f"{data_dir or model.config.data.path}: cross-reenactment is scored against "
            "the person in the driver's motion, whom only rendering can show; add "
            f"--data-dir {SYNTHETIC}, or leave --mode out",
            reason="no_truth",
        )
    with progress("rendering people", num_videos) as show:
        rendered = render_reenactments(
            num_videos,
            num_photos,
            num_frames,
            model.size,
            _people_seed(model),
            on_progress=show,
        )
    return [as_case(reenactment) for reenactment in rendered]


def as_case(reenactment: Reenactment) -> Case:
    """A rendered person whom another drives."""
    return Case(
        video=reenactment.person,
        identity=reenactment.person,
        photos=reenactment.photos,
        photo_landmarks=reenactment.photo_landmarks,
        driving=reenactment.driver_landmarks,
        frames=reenactment.frames,
        landmarks=reenactment.landmarks,
        driver=reenactment.driver,
        driver_frame=reenactment.driver_frame,
    )


def choose_videos(people: Episodes, needed: int, most: int) -> list[int]:
    """Long enough videos: the first of every person, then the seconds, and so on.

    Chosen again from those chosen, they stay the same, in the same order.
    """
    lengths = people.frames_per_video
    videos = [v for v in range(people.num_videos) if lengths[v] >= needed]
    if not videos:
        raise InputError(
            f"no held-out video has the {needed} frames needed (longest: "
            f"{max(lengths, default=0)}); lower --frames or --shots, or prepare more",
            reason="too_few_frames",
        )
    if len(videos) < min(most, people.num_videos):
        log.warning(
            "%d of %d held-out videos have fewer than the %d frames needed: left out; "
            "lower --frames or --shots to have them judged",
            people.num_videos - len(videos),
            people.num_videos,
            needed,
        )
    seen: collections.Counter = collections.Counter()
    turns = {}
    for v in videos:
        turns[v] = seen[people.identities[v]]
        seen[people.identities[v]] += 1
    return sorted(videos, key=turns.get)[:most]


def split(
    people: Archive, video: int, most_shots: int, num_frames: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers (sources [most_shots], targets [num_frames]) of a video, disjoint.

    The first T sources serve T shots; targets are in the order of time.
    """
    start, end = people.video_offset[video], people.video_offset[video + 1]
    order = start + np.random.default_rng((seed, video)).permutation(end - start)
    return order[:most_shots], np.sort(order[most_shots : most_shots + num_frames])


def _held_out_archive(model, data_dir, frames_needed, num_videos) -> Archive:
    """Frames of people kept aside; of rendered and prepared ones only those asked for."""
    config = model.config
    if _is_rendered(model, data_dir):
        with progress("rendering people", num_videos) as show:
            return render_archive(
                num_videos,
                frames_needed,
                model.size,
                _people_seed(model),
                style=model.style,
                on_progress=show,
            )
    if data_dir is None and config.data.kind == "archive":
        return open_episodes(config, model.source)[1]
    from data_pipeline.records_in_memory import archive_from_records  # and TensorFlow

    return archive_from_records(
        data_dir or config.data.path,
        "test",
        model.size,
        choose=lambda records: choose_videos(records, frames_needed, num_videos),
    )


def _is_rendered(model: MetaModel, data_dir: str | None) -> bool:
    kind = model.config.data.kind
    return data_dir == SYNTHETIC or (data_dir is None and kind == SYNTHETIC)


def _people_seed(model: MetaModel) -> int:
    """The same people for all models, but for one that was trained on them."""
    return _PEOPLE_SEED + (model.config.seed == _PEOPLE_SEED)
