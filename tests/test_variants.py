"""Every named variant differs from its recipe in exactly the fields it is about."""

import pytest

from configs import synthetic, variants, voxceleb1, voxceleb2
from data_pipeline.errors import InputError
from flax_heads import recipe
from flax_heads.console import log

FULL_STEPS = 75 * 145_569 // 16
# Of configs/voxceleb2.py at full size: field -> (recipe's value, variant's value).
EXPECTED = {
    "ft": {},
    "ff": {
        "loss.match": (10.0, 0.0),
        "num_train_steps": (FULL_STEPS, 2 * FULL_STEPS),
    },
    "v1": {
        "perceptual.vgg19": (0.0, 0.01),
        "perceptual.vggface": (0.0, 0.002),
        "perceptual.face_id": (1.0, 0.0),
        "loss.pixel": (10.0, 0.0),
        "loss.match": (10.0, 80.0),
    },
    "v2": {
        "perceptual.vgg19": (0.0, 0.15),
        "perceptual.vggface": (0.0, 0.025),
        "perceptual.face_id": (1.0, 0.0),
        "loss.pixel": (10.0, 0.0),
    },
    "no_feature_matching": {"loss.feature_matching": (10.0, 0.0)},
    "sum_feature_maps": {"loss.sum_feature_maps": (False, True)},
    "no_adversarial_fine_tuning": {"fine_tune.adversarial": (True, False)},
    "random_psi": {"fine_tune.random_psi": (False, True)},
    "random_w": {"fine_tune.random_w": (False, True)},
    "k1": {"num_support": (8, 1)},
    "k8": {},
    "k32": {"num_support": (8, 32)},
    "no_attention": {
        "model.embedder.attention_after": (3, None),
        "model.generator.attention_after": (3, None),
        "model.generator.up_attention_after": (2, None),
        "model.discriminator.attention_after": (3, None),
    },
    "sum_then_relu": {},
    "relu_then_sum": {
        "model.embedder.relu_before_sum": (False, True),
        "model.discriminator.relu_before_sum": (False, True),
    },
}


def _flat(config) -> dict:
    def walk(values, prefix=""):
        for name, value in values.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value

    return dict(walk(recipe.as_json(config)))


def _changes(before, after) -> dict:
    before, after = _flat(before), _flat(after)
    assert before.keys() == after.keys()
    return {f: (before[f], after[f]) for f in before if before[f] != after[f]}


def test_the_table_is_complete():
    assert EXPECTED.keys() == variants.VARIANTS.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_variant_changes_exactly_its_fields(name):
    changes = _changes(voxceleb2.get_config(), voxceleb2.get_config(name))
    assert changes == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize(
    "recipe_file, size", [(synthetic, "small"), (voxceleb1, "small")]
)
def test_variants_combine_with_every_recipe(recipe_file, size, name):
    base = recipe_file.get_config(size)
    config = recipe_file.get_config(f"{size},{name}")
    assert set(_changes(base, config)) <= set(variants.VARIANTS[name])
    recipe.networks(config)


def test_several_variants_at_once():
    config = voxceleb2.get_config("small,k1,no_attention")
    assert config.num_support == 1 and config.model.embedder.attention_after is None
    assert config.size == 64


@pytest.mark.parametrize("argument", ["k9", "no_attention,small", "small,,k1", ","])
def test_what_is_no_variant_is_refused(argument):
    with pytest.raises(ValueError, match="expected a size first"):
        voxceleb2.get_config(argument)


def test_an_older_config_gets_the_defaults_of_newer_fields():
    saved = recipe.as_json(voxceleb2.get_config("small"))
    del saved["fine_tune"]["random_psi"], saved["vgg19"]
    config = recipe.from_json(saved)
    assert config.fine_tune.random_psi is False
    assert recipe.as_json(config) == recipe.as_json(voxceleb2.get_config("small"))


@pytest.mark.parametrize("names", ["ff,v2", "v2,ff", "no_feature_matching,v1"])
def test_the_order_of_variants_does_not_matter(names):
    config = voxceleb2.get_config(names)
    mirrored = voxceleb2.get_config(",".join(reversed(names.split(","))))
    assert recipe.as_json(config) == recipe.as_json(mirrored)
    left_out = "match" if "ff" in names else "feature_matching"
    assert config.loss[left_out] == 0 and config.perceptual.vgg19 > 0


@pytest.mark.parametrize("names", ["ft,ff", "k1,k8", "v1,v2", "v1,ft"])
def test_variants_that_contradict_each_other_are_refused(names):
    with pytest.raises(ValueError, match=r"both set .*: choose one"):
        voxceleb2.get_config(names)


def test_a_variant_is_named_once():
    """`ff` doubles the number of steps."""
    with pytest.raises(ValueError, match="'ff' is there twice"):
        voxceleb2.get_config("small,ff,ff")


def test_fields_that_change_what_weights_mean_are_told():
    saved, config = recipe.as_json(voxceleb2.get_config()), voxceleb2.get_config()
    config.model.update(dtype="bfloat16", remat=True)
    config.optimizer.generator_learning_rate = 1.0
    assert recipe.other_meaning(saved, config) == []
    config.raster.line_width, config.model.embedder.attention_after = 7.0, 4
    assert recipe.other_meaning(saved, config) == [
        "model.embedder.attention_after: 3 -> 4",
        "raster.line_width: 2.0 -> 7.0",
    ]


@pytest.mark.parametrize("after", [0, 7])
def test_an_attention_that_is_nowhere_is_told(caplog, after):
    """Not refused: a run may have been trained so."""
    log.addHandler(caplog.handler)
    config = voxceleb2.get_config()
    recipe.check(config)
    assert not caplog.messages
    config.model.generator.up_attention_after = after
    recipe.check(config)
    log.removeHandler(caplog.handler)
    assert f"up_attention_after is {after}, of 4 blocks" in caplog.messages[0]


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("size", 100, "multiple of 64"),
        ("num_support", 0, "num_support is 0: expected at least 1"),
        ("log_every_steps", 0, "log_every_steps is 0"),
        ("max_non_finite_steps", 0, "max_non_finite_steps is 0"),
        ("optimizer.discriminator_updates", 0, "discriminator_updates is 0"),
        ("seed", -1, "seed is -1"),
        ("num_train_steps", -1, "num_train_steps is -1"),
        ("fine_tune.batch_size", 0, "fine_tune.batch_size is 0"),
        ("fine_tune.patience", 0, "fine_tune.patience is 0"),
        ("model.dtype", "float16", "float16.: expected float32 or bfloat16"),
        ("model.generator.channels", (), "generator.channels is empty"),
        ("raster.version", 9, "raster.version is 9"),
        ("data.kind", "synthetic", "num_videos is 0: expected at least 1 of rendered"),
    ],
)
def test_numbers_that_cannot_be_are_refused_before_any_work(field, value, message):
    config = voxceleb2.get_config()
    recipe.check(config)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=message):
        recipe.check(config)
