"""Opens what a config trains on, and the people it keeps aside."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from ml_collections import ConfigDict

from data_pipeline import outputs, safe_files
from data_pipeline.archive import Archive, load_archive, render_archive
from data_pipeline.errors import InputError
from data_pipeline.synthetic_person import person_name
from flax_heads import model_file, recipe, saved_steps
from flax_heads.console import progress

# Added to a run's seed: the rendered people that its checks look at. The best checkpoint
# is the best of them, hence `evaluate` takes others (`evaluation_data._PEOPLE_SEED`).
_HELD_OUT_SEED = 2_000_000
_HELD_OUT_PEOPLE = 16
_DATA = "videos.json"  # in a workdir: which videos it has seen


class Episodes(Protocol):
    """What the training loop needs of a data set: `Archive` and `Records` have it."""

    num_videos: int
    videos: list[str]  # their names; a batch's `video_index` is a place in this list
    identities: list[str]
    frames_per_video: np.ndarray
    size: int
    style: object

    def batches(
        self,
        seed: int,
        start_step: int,
        batch_size: int,
        num_support: int,
        process_index: int = 0,
        process_count: int = 1,
        identity_augmentation: float = 0.0,
    ) -> Iterator[dict[str, np.ndarray]]: ...


def open_episodes(
    config: ConfigDict, workdir: str | pathlib.Path
) -> tuple[Episodes, Episodes]:
    """(training people, held-out people), disjoint by identity.

    Raises:
      InputError: the data is missing, of another size, or drawn in another style.
    """
    kind = config.data.kind
    if kind in ("records", "archive") and not config.data.path:
        raise InputError(
            f"config.data.path is empty; add --config.data.path=… ({kind} to train on)",
            reason="config",
        )
    if kind == "synthetic":
        train, held_out = _synthetic(config, pathlib.Path(workdir))
    elif kind == "archive":
        train, held_out = load_archive(config.data.path).split_by_identity(
            config.data.held_out
        )
    elif kind == "records":
        from data_pipeline.input_pipeline import Records  # imports TensorFlow

        train, held_out = (
            Records(config.data.path, split, max_damaged=config.data.max_damaged)
            for split in ("train", "test")
        )
    else:
        raise InputError(
            f"data.kind {kind!r}: expected 'records', 'archive' or 'synthetic'",
            reason="config",
        )
    for name, ours, theirs in (
        ("size", config.size, train.size),
        ("raster", recipe.raster_style(config), train.style),
    ):
        if ours != theirs:
            raise InputError(
                f"{config.data.path}: prepared with {name} {theirs}, the config says "
                f"{ours}; prepare it again or change the config",
                reason="other_data",
            )
    return train, held_out


def note_data(
    workdir: str | pathlib.Path, data: Episodes, came_from: Sequence[str] = ()
) -> None:
    """Writes what a run trains on, for `check_same_data` and `trained_on`.

    Args:
      workdir: of the run.
      data: what it trains on.
      came_from: models that it goes on from; their people are noted as well.
    """
    before = frozenset().union(*map(trained_on, came_from))
    with outputs.whole_file(pathlib.Path(workdir, _DATA)) as part:
        people = {"identities": sorted({*data.identities, *before})}
        part.write_text(json.dumps(_videos(data) | people) + "\n")


def check_same_data(run: str | pathlib.Path, data: Episodes, path: str) -> None:
    """Refuses other videos than `run` was trained on: rows of W would be of others.

    Args:
      run: workdir of a training run; one that notes nothing is an older version's.
      data: what is to be trained on, from `path`.

    Raises:
      InputError: `other_data`.
    """
    now = _videos(data)
    before = {name: value for name, value in _noted(run).items() if name in now}
    if before and before != now:
        raise InputError(
            f"{path or run}: holds {data.num_videos} videos, which are not the "
            f"{before.get('num_videos')} that {run} was trained on (by name, order and "
            "length); give it those, or begin a new --workdir with --config.init_from",
            reason="other_data",
        )


def trained_on(source: str | pathlib.Path) -> frozenset[str]:
    """Identities that a model was trained on; empty where nothing notes them.

    Args:
      source: as `model_file.load_networks` takes it; only a workdir knows.
    """
    folder, _ = model_file.split_source(source)
    return frozenset(_noted(folder).get("identities", ()))


def _noted(run):
    try:
        noted = safe_files.read_json(pathlib.Path(run, _DATA))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _videos(data: Episodes) -> dict[str, int | str]:
    listed = json.dumps([data.videos, np.asarray(data.frames_per_video).tolist()])
    digest = hashlib.sha256(listed.encode()).hexdigest()
    return {"num_videos": data.num_videos, "videos": digest}


def _synthetic(config, workdir):
    """Renders the synthetic people once; a resumed run reads them back."""
    return (
        _people(config, workdir / "synthetic.npz", config.data.num_videos, config.seed),
        _people(
            config,
            workdir / "synthetic_held_out.npz",
            _HELD_OUT_PEOPLE,
            config.seed + _HELD_OUT_SEED,
        ),
    )


def _people(
    config: ConfigDict, path: pathlib.Path, num_people: int, seed: int
) -> Archive:
    """Synthetic people of `path`, where they are rendered to if it has not the asked for.

    Always from the file, not from memory: JPEG changes the frames, and a resumed run
    must see the same ones.
    """
    with contextlib.suppress(InputError):  # not there, or damaged
        people = load_archive(path)
        # Another config's belong to a run that was cut short, unless it has a
        # checkpoint: that will refuse this config.
        begun = saved_steps.newest_first(saved_steps.folder_of(path.parent))
        if begun or _asked_for(people, config, num_people, seed):
            return people
    with progress("rendering people", num_people) as show:
        render_archive(
            num_people,
            config.data.frames_per_video,
            config.size,
            seed,
            style=recipe.raster_style(config),
            on_progress=show,
        ).save(path)
    return load_archive(path)


def _asked_for(people: Archive, config: ConfigDict, num_people: int, seed: int) -> bool:
    """Whether rendered people are those of the config."""
    return (
        people.videos == [person_name(seed, v) for v in range(num_people)]
        and (people.frames_per_video == config.data.frames_per_video).all()
        and (people.size, people.style) == (config.size, recipe.raster_style(config))
    )
