"""The smallest real models and batches: 16 px, widths of 8, from the same builders."""

from __future__ import annotations

import jax
import numpy as np

from configs import common
from data_pipeline import synthetic
from data_pipeline.people import Person
from flax_heads import recipe
from flax_heads.generator import Projection
from flax_heads.meta_model import MetaModel
from flax_heads.objectives import LossWeights
from flax_heads.state import Adam, Networks, init_state, make_networks

SIZE = 16
NUM_VIDEOS = 10
_PARTS = {
    "embedder": {"channels": (8, 16, 16), "attention_after": 2},
    "generator": {
        "channels": (8, 16),
        "num_residual_blocks": 1,
        "attention_after": 1,
        "up_attention_after": None,
    },
    "discriminator": {"channels": (8, 16, 16), "attention_after": 2},
}
NETWORKS = make_networks(**_PARTS)
# One block each and one attention, for what does not depend on depth.
ONE_BLOCK = {"channels": (8,), "attention_after": None}
UP_AND_DOWN = ONE_BLOCK | {"num_residual_blocks": 0, "up_attention_after": None}
WITH_ATTENTION = ONE_BLOCK | {"attention_after": 1}
SHALLOW_NETWORKS = make_networks(WITH_ATTENTION, UP_AND_DOWN, ONE_BLOCK)
_SHALLOW_PARTS = {
    "embedder": WITH_ATTENTION,
    "generator": UP_AND_DOWN | {"num_residual_blocks": 1},
    "discriminator": ONE_BLOCK,
}
GENERATOR_ADAM = Adam(1e-3)
DISCRIMINATOR_ADAM = Adam(2e-3)
WEIGHTS = LossWeights(pixel=10.0)


def networks_with(networks: Networks = NETWORKS, **attributes) -> Networks:
    """With other attributes of the modules that compute images."""
    return Networks(
        *(
            module if isinstance(module, Projection) else module.clone(**attributes)
            for module in networks
        )
    )


def make_state(seed: int = 0, networks: Networks = NETWORKS):
    return init_state(
        networks,
        jax.random.key(seed),
        size=SIZE,
        num_videos=NUM_VIDEOS,
        generator_adam=GENERATOR_ADAM,
        discriminator_adam=DISCRIMINATOR_ADAM,
    )


# Compiled once for all tests of the same networks.
new_state = jax.jit(make_state, static_argnames="networks")


def make_model(shallow: bool = False, **fine_tune):
    """The smallest model, as if it had been loaded.

    Args:
      shallow: of one block each, which compiles the soonest.
      fine_tune: fields of its config's `fine_tune`.
    """
    config = common.paper()
    config.size = SIZE
    parts = _SHALLOW_PARTS if shallow else _PARTS
    for name, attributes in parts.items():
        config.model[name].update(attributes)
    config.loss.update(pixel=10.0)
    config.fine_tune.update(
        generator_learning_rate=2e-3,
        discriminator_learning_rate=2e-3,
        batch_size=2,
    )
    config.fine_tune.update(fine_tune)
    state = new_state(networks=recipe.networks(config))
    return MetaModel.of_state(config, state, source="model")


def make_person(seed: int, num_photos: int) -> Person:
    """A rendered person."""
    identity = synthetic.sample_identity(seed)
    motion = synthetic.sample_motion(seed, num_photos, "talk")
    return Person(*synthetic.render(identity, motion, SIZE), ["rendered"])


def make_batch(seed: int = 0, batch_size: int = 4, num_support: int = 2):
    rng = np.random.default_rng(seed)

    def images(*lead):
        # Smooth, so that a few steps can learn something of them.
        corners = rng.integers(0, 256, (*lead, 2, 2, 3))
        return corners.repeat(SIZE // 2, -3).repeat(SIZE // 2, -2).astype(np.uint8)

    return {
        "support_frames": images(batch_size, num_support),
        "support_rasters": images(batch_size, num_support),
        "target_frame": images(batch_size),
        "target_raster": images(batch_size),
        "video_index": rng.permutation(NUM_VIDEOS)[:batch_size].astype(np.int32),
    }


def assert_trees_close(a, b, rtol=1e-4, atol=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol, atol), a, b)


def assert_leaves_near(a, b, relative: float, absolute: float = 1e-3):
    """Each leaf's distance is small against its size: single entries may differ more.

    Adam divides by the roots of its second moments, which blows rounding up where a
    gradient is nearly zero.
    """

    def check(x, y):
        distance = np.linalg.norm(np.asarray(x, np.float64) - y)
        assert distance <= relative * np.linalg.norm(x) + absolute, (x.shape, distance)

    jax.tree.map(check, a, b)


def largest_change(a, b) -> float:
    changes = jax.tree.map(
        lambda x, y: np.abs(np.asarray(x) - np.asarray(y)).max(), a, b
    )
    return float(max(jax.tree.leaves(changes)))
