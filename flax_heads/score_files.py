"""The scores of an evaluation, one file for each T and video: what is there stays.

They belong to the settings beside them, and are refused to any others.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np

from data_pipeline import safe_files
from data_pipeline.errors import InputError
from data_pipeline.outputs import whole_file
from flax_heads.console import log

# Of what the numbers mean and of what the files hold: scores of another are not gone on
# from. Raise it with every change of either.
SCORES_VERSION = 2
_MAX_BYTES = 2**32  # of one video's scores


def open_scores(output: pathlib.Path, settings: dict[str, Any]) -> pathlib.Path:
    """The folder of finished scores, which belong to these settings and no others.

    Those of other versions of the code are kept, and `settings` names all versions.
    """
    folder, path = output / "scores", output / "settings.json"
    folder.mkdir(parents=True, exist_ok=True)
    if path.exists():
        try:
            before = safe_files.read_json(path)
            known, asked = _binding(before), _binding(json.loads(json.dumps(settings)))
        except (ValueError, AttributeError) as error:
            raise InputError(
                f"{path}: is damaged ({error}), so that what the scores beside it are of "
                "is not known; choose a new --output, or delete the folder",
                reason="damaged",
            ) from error
        # Fields that an older evaluation did not know had the values of now.
        known["recipe"] = asked.get("recipe", {}) | known.get("recipe", {})
        if differing := [key for key in asked if known.get(key) != asked[key]]:
            raise InputError(
                f"{output}: holds an evaluation with other settings "
                f"({', '.join(differing)}); choose a new --output, or delete it",
                reason="other_evaluation",
            )
        others = [v for v in before.get("code", []) if v not in settings["code"]]
        if others:
            log.warning("%s: some scores are of another version of the code", output)
        settings["code"] = others + settings["code"]
    with whole_file(path) as part:
        part.write_text(json.dumps(settings, indent=2) + "\n")
    return folder


def _binding(settings: dict[str, Any]) -> dict[str, Any]:
    """What scores depend on: weights and pictures, not where they lie, nor the code."""
    return {
        key: {k: v for k, v in value.items() if k not in ("path", "trained_on")}
        if isinstance(value, dict)
        else value
        for key, value in settings.items()
        if key != "code"
    }


def save(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    with whole_file(path) as part:
        np.savez_compressed(part, **arrays)


def load(path: pathlib.Path) -> dict[str, np.ndarray] | None:
    """Scores that are there already; None where they are not, or damaged."""
    if not path.exists():
        return None
    try:
        return safe_files.read_npz(path, _MAX_BYTES)
    except (ValueError, OSError) as error:
        log.warning("%s: is damaged (%s); scored again", path, error)
        return None
