"""A model as one file: what it holds, how near it stays, and the one that we ship."""

import jax
import numpy as np
import pytest

from configs import bundled
from data_pipeline.errors import InputError
from flax_heads import fine_tune, load_model, model_file, recipe
from tests.tiny import SIZE, make_model, make_person


def _networks(model):
    return {
        "ema": jax.device_get(model.params),
        "generator_vectors": jax.device_get(model.vectors),
        "discriminator": jax.device_get(model.discriminator),
        "discriminator_vectors": jax.device_get(model.discriminator_vectors),
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    model = make_model()
    path = tmp_path_factory.mktemp("model") / "model.npz"
    model_file.write(path, 7, recipe.as_json(model.config), _networks(model))
    return model, path


def test_the_file_holds_the_model_in_half_precision(written):
    model, path = written
    step, config, loaded = model_file.read(path)
    assert step == 7
    assert recipe.as_json(recipe.from_json(config)) == recipe.as_json(model.config)

    def near(old, new):
        np.testing.assert_allclose(new, old, rtol=2**-10, atol=1e-7)
        assert new.dtype == np.float32

    jax.tree.map(near, _networks(model), loaded)
    leaves = jax.tree.leaves(loaded)
    numbers = sum(leaf.size for leaf in leaves)
    assert path.stat().st_size < 2 * numbers + 500 * len(leaves)  # and their names


def test_a_person_of_the_file_looks_as_one_of_the_model(written):
    model, path = written
    person = make_person(3, 2)
    frames = [
        fine_tune(m, person.photos, person.landmarks, num_iterations=0).draw(
            np.zeros((1, SIZE, SIZE, 3), np.uint8)
        )
        for m in (model, load_model(path))
    ]
    assert np.abs(frames[0].astype(int) - frames[1]).max() <= 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda arrays: arrays.pop("header"),
        lambda arrays: arrays.pop("ema:projection:dense:kernel"),
        lambda arrays: arrays.update({"ema:projection:dense:kernel": np.zeros((2, 2))}),
        lambda arrays: arrays["discriminator:b"].fill(np.nan),
    ],
)
def test_a_file_that_is_no_model_is_refused_by_name(written, tmp_path, spoil):
    with np.load(written[1]) as stored:
        arrays = dict(stored)
    spoil(arrays)
    path = tmp_path / "spoilt.npz"
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=r"spoilt\.npz: not a readable model"):
        load_model(path)


def test_numbers_that_half_precision_cannot_hold_are_not_written(tmp_path):
    model = make_model()
    networks = _networks(model)
    networks["discriminator"]["b"] = np.float32(1e6)
    with pytest.raises(InputError, match="half precision"):
        model_file.write(tmp_path / "m.npz", 7, recipe.as_json(model.config), networks)
    assert not list(tmp_path.iterdir())


def test_the_model_that_comes_with_the_package():
    """It is small, of the recipe that we keep, and its card says its steps."""
    path = model_file.BUNDLED_FILE
    assert path.stat().st_size <= 16 * 10**6
    model = load_model()
    made_by = recipe.as_json(bundled.get_config())
    ours = recipe.as_json(model.config)
    del made_by["num_train_steps"], ours["num_train_steps"]  # the command's
    assert ours == made_by
    card = path.with_name("README.md").read_text()
    assert f"{model.step:,} steps" in card


def test_a_runs_checkpoints_are_named_behind_an_at(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        model_file.checkpoints,
        "load_for_fine_tuning",
        lambda *arguments: asked.append(arguments),
    )
    (tmp_path / "run@7").mkdir()
    for source in ("run", "run@5000", "run@best", "run@home", tmp_path / "run@7"):
        model_file.load_networks(source)
    assert asked == [
        ("run", None),
        ("run", 5000),
        ("run", "best"),
        ("run@home", None),
        (tmp_path / "run@7", None),
    ]
