"""Few-shot neural talking heads (Zakharov et al. 2019) in JAX and Flax.

Shapes in this package are written with: B batch, K support frames of an episode, T photos
of a new person, F frames of a video, H x W pixels, C channels, N embedding size, M training
videos, P length of psi.
"""

import importlib

_PUBLIC = {
    "MetaModel": "meta_model",
    "TalkingHead": "talking_head",
    "drive": "animate",
    "evaluate_held_out": "evaluate",
    "fine_tune": "meta_model",
    "load_model": "meta_model",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str):
    """Imports a public name when it is first used, so that `import flax_heads` is cheap."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
