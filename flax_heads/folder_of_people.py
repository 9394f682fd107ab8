"""A folder of people's photos to a folder of talking heads, resumable."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator

import jax

from data_pipeline import safe_files
from data_pipeline.images import Limits, one_line
from data_pipeline.people import Person, load_people, people_from_folder
from flax_heads.early_stopping import describe
from flax_heads.many_people import fine_tune_many
from flax_heads.meta_model import MetaModel, tuning_history


@dataclasses.dataclass
class FolderResult:
    """What became of the people of a folder, by name.

    Attributes:
      made: whose heads were made now.
      kept: whose heads were there already.
      skipped: why there is no head.
      left_out: photos that could not be used, of people who have others.
    """

    made: list[str] = dataclasses.field(default_factory=list)
    kept: list[str] = dataclasses.field(default_factory=list)
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)
    left_out: dict[str, list[str]] = dataclasses.field(default_factory=dict)


def fine_tune_folder(
    model: MetaModel,
    photos_from: str | os.PathLike,
    output: str | os.PathLike,
    *,
    max_photos: int | None = None,
    frames_per_clip: int = 8,
    num_iterations: int | None = None,
    seed: int = 0,
    per_device: int | None = None,
    num_workers: int = 1,
    limits: Limits | None = None,
    on_person: Callable[[str, str], None] = lambda name, what: None,
) -> FolderResult:
    """Learns everyone in a folder; each head appears complete at `output`/NAME.

    Run again, it makes only what is missing. Of several processes (`jax.distributed`)
    each takes its share of the people.

    Args:
      model: from `load_model`.
      photos_from: see `people.people_from_folder`.
      output: folder of the heads' folders.
      max_photos: caps T.
      frames_per_clip, limits, num_workers: see `people.load_people`.
      num_iterations, seed: as for `fine_tune`, the same for everyone.
      per_device: see `fine_tune_many`.
      on_person: called with a name and "made, ITERATIONS", "kept" or why the person was
        skipped; perhaps from another thread.

    Raises:
      InputError: there is nobody in the folder; the output cannot be written.
    """
    asked = tuning_history(model, model.rule(num_iterations), seed)
    output, result = pathlib.Path(output), FolderResult()
    people = sorted(people_from_folder(photos_from).items())
    to_make, digests = {}, {}
    for name, files in people[jax.process_index() :: jax.process_count()]:
        digests[name] = _digest(files, frames_per_clip, max_photos)
        if (output / name / "head.json").exists():
            this = asked | {"photos_digest": digests[name]}
            problem = _other_history(output / name, this)
            if problem:
                result.skipped[name] = problem
            else:
                result.kept.append(name)
            on_person(name, problem or "kept")
        else:
            to_make[name] = files

    def usable() -> Iterator[tuple[str, Person]]:
        for loaded in load_people(
            to_make, model.size, frames_per_clip, max_photos, limits, num_workers
        ):
            if loaded.person is None:
                result.skipped[loaded.name] = "; ".join(loaded.problems)
                on_person(loaded.name, result.skipped[loaded.name])
                continue
            if loaded.problems:
                result.left_out[loaded.name] = loaded.problems
            yield loaded.name, loaded.person

    for name, head in fine_tune_many(
        model,
        usable(),
        num_iterations=num_iterations,
        seed=seed,
        per_device=per_device,
    ):
        if head.is_finite():
            history = head.history | {"photos_digest": digests[name]}
            dataclasses.replace(head, history=history).save(output / name)
            result.made.append(name)
            on_person(name, f"made, {describe(head.history)}")
        else:
            result.skipped[name] = "learning did not stay finite"
            on_person(name, result.skipped[name])
    return result


def _digest(files, frames_per_clip, max_photos) -> str:
    """Tells whether a person's files are others now, or more is taken of them."""
    # A link to nothing is one of the files; reading it will say so.
    listed = [(p.name, p.stat().st_size if p.exists() else None) for p in files]
    text = json.dumps([listed, frames_per_clip, max_photos])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _other_history(folder, asked) -> str:
    """Why a finished head is not the one that would be made now, or nothing."""
    try:
        history = safe_files.read_json(folder / "head.json")["history"]
        # Heads had no say in their type before, and did not note their photos.
        there = {
            "dtype": "float32",
            "photos_digest": asked["photos_digest"],
            **history,
            "model": os.path.abspath(history["model"]),
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{folder}: damaged talking head ({one_line(error)}); remove it"
    wanted = {**asked, "model": os.path.abspath(asked["model"])}
    for field, value in wanted.items():
        if field == "photos_digest" and there[field] != value:
            return (
                f"{folder} was made of other photos, or of more or fewer of them; remove "
                "it, or choose another output"
            )
        if there.get(field) != value:
            return (
                f"{folder} was made with {field} {there.get(field)}, not {value}; "
                "remove it, or choose another output"
            )
    return ""
