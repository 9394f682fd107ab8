"""Every recipe builds its networks, and its step has the stated shapes."""

import jax
import numpy as np
import pytest

from configs import bundled, common, synthetic, voxceleb1, voxceleb2
from flax_heads import info, recipe
from flax_heads.integrity import differences

RECIPES = {
    "bundled": (bundled, (None, "smoke")),
    "synthetic": (synthetic, (None, "small", "smoke", "tiny")),
    "voxceleb1": (voxceleb1, (None, "small", "smoke")),
    "voxceleb2": (voxceleb2, (None, "small", "smoke")),
}
CASES = [(name, arg) for name, (_, args) in RECIPES.items() for arg in args]


@pytest.mark.parametrize("name, arg", CASES)
def test_recipe_builds(name, arg):
    config = RECIPES[name][0].get_config(arg)
    assert config.num_train_steps > 0
    networks = recipe.networks(config)
    images = jax.ShapeDtypeStruct((1, config.size, config.size, 3), np.float32)
    psi = jax.ShapeDtypeStruct((1, networks.generator.psi_size), np.float32)
    frames = jax.eval_shape(
        lambda key, y, psi: networks.generator.init_with_output(key, y, psi)[0],
        jax.random.key(0),
        images,
        psi,
    )
    assert frames.shape == images.shape
    assert recipe.loss_weights(config).pixel > 0
    restored = recipe.from_json(recipe.as_json(config))
    assert recipe.as_json(config) == recipe.as_json(restored)
    assert recipe.networks(restored) == networks


@pytest.mark.parametrize("name", RECIPES)
def test_unknown_argument_is_refused(name):
    with pytest.raises(ValueError, match="expected"):
        RECIPES[name][0].get_config("nonsense")


def test_the_papers_numbers():
    config = common.paper()
    assert (config.size, config.num_support) == (256, 8)
    generator, discriminator = recipe.adams(config)
    assert (generator.learning_rate, discriminator.learning_rate) == (5e-5, 2e-4)
    assert (generator.b1, generator.b2, generator.eps) == (0.0, 0.999, 1e-5)
    assert config.optimizer.discriminator_updates == 2
    assert config.fine_tune.num_iterations == 40


def test_differences_name_the_fields():
    config = recipe.as_json(synthetic.get_config())
    other = recipe.as_json(synthetic.get_config())
    assert differences(config, other) == []
    other["loss"]["match"] = 2.5
    del other["seed"]
    lines = differences(config, other)
    assert [line.split(":")[0] for line in lines] == ["loss.match", "seed"]


def test_info_states_the_papers_sizes():
    text = info.describe(common.paper(), num_videos=145_569)
    rows = dict(line.split("  ", 1) for line in text.splitlines())
    assert rows["psi (per person)"].strip() == "13,056"
    # W of VoxCeleb2's videos: 284 MiB, and its second moment as much again.
    assert rows["state, W"].split()[0] == "570"
    flops = float(rows["FLOPs of an episode"].split()[0])
    # About 1.75 T with VGG19 and VGGFace, which are not in here, and with every
    # convolution beside a resampling at the larger side.
    assert 0.8 < flops < 1.2
