"""Weights out to PyTorch's layout and back; torch itself is needed by two tests only."""

import functools
import json

import jax
import numpy as np
import pytest

from data_pipeline.errors import InputError
from flax_heads import checkpoints, parallel, recipe
from flax_heads.meta_model import load_model
from flax_heads.torch_weights import (
    export_torch,
    from_state_dict,
    import_torch,
    to_state_dict,
)
from flax_heads.weight_files import read_tensors
from tests.test_train import tiny_config

CONV = "generator.down2.conv1.parametrizations.weight"
KERNEL = f"{CONV}.original"


def deeper_config():
    """With a tensor of every kind: more than one block, residual blocks, attention."""
    config = tiny_config(0)
    for name in ("embedder", "discriminator"):
        config.model[name].update(channels=(8, 16), attention_after=1)
    config.model.generator.update(
        channels=(8, 16), num_residual_blocks=1, attention_after=1, up_attention_after=1
    )
    return config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """An untrained run whose averages differ from its live parameters."""
    config = deeper_config()
    init = functools.partial(recipe.new_state, config, num_videos=4)
    state = parallel.jit_init(init, parallel.make_mesh())
    state = state.replace(ema=jax.tree.map(lambda x: 1.5 * x + 0.1, state.ema))
    folder = tmp_path_factory.mktemp("run")
    with checkpoints.open_manager(folder) as manager:
        checkpoints.save(manager, 7, state, recipe.as_json(config))
    return folder


@pytest.fixture(scope="module")
def model(workdir):
    return load_model(workdir)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    pytest.importorskip("safetensors")
    path = tmp_path_factory.mktemp("exported") / "model.safetensors"
    export_torch(model, path)
    return path


@pytest.fixture(scope="module")
def imported(exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported") / "run"
    import_torch(exported, deeper_config(), folder)
    return folder


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


# --- Trees and tensors


def test_there_and_back_changes_no_bit(model):
    tensors = to_state_dict(model.params, model.vectors)
    params, vectors = from_state_dict(tensors, model.params, model.vectors)
    assert_same(model.params, params)
    assert_same(jax.device_get(model.vectors), vectors)


def test_entries_land_where_pytorch_reads_them(model):
    tensors = to_state_dict(model.params, model.vectors)
    kernel = model.params["generator"]["down2"]["conv1"]["kernel"]  # [h, w, I, O]
    assert tensors[KERNEL][5, 3, 0, 2] == kernel[0, 2, 3, 5]
    dense = model.params["projection"]["dense"]["kernel"]  # [I, O]
    name = "projection.dense.parametrizations.weight.original"
    assert tensors[name][5, 3] == dense[3, 5]
    norm = model.params["generator"]["down2"]["norm1"]["scale"]
    np.testing.assert_array_equal(tensors["generator.down2.norm1.weight"], norm)
    scalar = to_state_dict({"attention": {"gamma": np.float32(2)}}, {})
    assert scalar["attention.gamma"].shape == ()


def test_vectors_belong_to_the_matrix_as_pytorch_flattens_it(model):
    """sigma = u^T W v there equals ours, over a kernel whose v had to be reordered."""
    tensors = to_state_dict(model.params, model.vectors)
    weight = tensors[KERNEL]
    matrix = weight.reshape(len(weight), -1)
    sigma = tensors[f"{CONV}.0._u"] @ matrix @ tensors[f"{CONV}.0._v"]
    kernel = np.asarray(model.params["generator"]["down2"]["conv1"]["kernel"])
    pair = model.vectors["generator/down2/conv1/kernel"]
    ours = pair["v"] @ kernel.reshape(-1, kernel.shape[-1]) @ pair["u"]
    np.testing.assert_allclose(sigma, ours, rtol=1e-5)
    largest = np.linalg.svd(matrix, compute_uv=False)[0]
    np.testing.assert_allclose(sigma, largest, rtol=0.05)


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda t: t.pop(KERNEL), "missing_tensor"),
        (lambda t: t.update({KERNEL: t[KERNEL][..., 0]}), "other_shape"),
        (lambda t: t.update({KERNEL: t[KERNEL].astype(np.int8)}), "not_floating"),
        (lambda t: t.update({KERNEL: t[KERNEL] * np.nan}), "not_finite"),
    ],
)
def test_bad_tensor_is_named(model, change, reason):
    tensors = to_state_dict(model.params, model.vectors)
    change(tensors)
    with pytest.raises(InputError, match=f"^x.pth: .*{KERNEL}") as error:
        from_state_dict(tensors, model.params, model.vectors, source="x.pth")
    assert error.value.reason == reason and "\n" not in str(error.value)


def test_unknown_tensor_is_named(model):
    tensors = to_state_dict(model.params, model.vectors)
    tensors["generator.down9.bias"] = np.zeros(3, np.float32)
    with pytest.raises(InputError, match=r"generator\.down9\.bias") as error:
        from_state_dict(tensors, model.params, model.vectors)
    assert error.value.reason == "unknown_tensor"


def test_half_precision_becomes_float32(model):
    tensors = to_state_dict(model.params, model.vectors)
    halves = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    params, _ = from_state_dict(halves, model.params, model.vectors)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 1e-3, 1e-6), model.params, params
    )


# --- Files and workdirs


def test_file_says_what_it_is(exported):
    from safetensors import safe_open

    with safe_open(exported, "numpy") as file:
        metadata = file.metadata()
        names = set(file.keys())
    assert metadata["step"] == "7"
    assert json.loads(metadata["config"])["model"]["generator"]["channels"] == [8, 16]
    prefixes = {"embedder", "generator", "projection", "discriminator"}
    assert {name.split(".")[0] for name in names} == prefixes
    assert {"discriminator.w0", "discriminator.b", KERNEL} < names
    assert not list(exported.parent.glob("*.unfinished"))


def test_imported_model_is_the_exported_one(model, imported):
    again = load_model(imported)
    assert again.step == 0
    assert again.config.to_dict() == model.config.to_dict()
    assert_same(model.params, again.params)
    assert_same(model.discriminator, again.discriminator)
    assert_same(model.discriminator_vectors, again.discriminator_vectors)
    # `load_model` iterates the generator side's vectors on; what it read is the file's.
    _, _, loaded = checkpoints.load_for_fine_tuning(imported)
    assert_same(jax.device_get(model.vectors), loaded["generator_vectors"])


def test_workdir_itself_exports_the_same_file(workdir, exported, tmp_path):
    export_torch(workdir, tmp_path / "new" / "again.safetensors")
    assert_same(
        read_tensors(exported), read_tensors(tmp_path / "new/again.safetensors")
    )


def test_training_starts_from_an_imported_model(model, imported):
    """What `config.init_from` does with a workdir."""
    init = functools.partial(recipe.new_state, deeper_config(), num_videos=4)
    fresh = parallel.jit_init(init, parallel.make_mesh())
    _, _, loaded = checkpoints.load_for_fine_tuning(imported)
    state = checkpoints.with_networks(fresh, loaded, str(imported))
    assert_same(model.params, jax.device_get(state.ema))
    assert_same(model.params, jax.device_get(state.generator.params))
    assert_same(model.discriminator, jax.device_get(state.discriminator.params))


def test_other_config_is_refused_and_leaves_nothing(exported, tmp_path):
    config = deeper_config()
    config.model.generator.channels = (8, 24)
    with pytest.raises(
        InputError, match=r"model.safetensors: tensor 'generator\.down2"
    ):
        import_torch(exported, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_workdir_with_checkpoints_is_refused(exported, workdir):
    with pytest.raises(InputError, match="is not empty"):
        import_torch(exported, deeper_config(), workdir)


def test_export_of_nothing_and_to_another_kind_of_file(model, tmp_path):
    pytest.importorskip("safetensors")
    with pytest.raises(InputError, match="has no checkpoint"):
        export_torch(tmp_path, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"\.safetensors"):
        export_torch(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


# --- With torch


def torch_networks(config):
    from tests import torch_models

    parts = config.model.to_dict()
    return torch_models.Networks(
        parts["embedder"], parts["generator"], parts["discriminator"]
    )


def test_pytorch_loads_the_file_strictly(exported):
    pytest.importorskip("torch")
    from safetensors.torch import load_file

    networks = torch_networks(deeper_config())
    networks.load_state_dict(load_file(exported), strict=True)
    for name, tensor in read_tensors(exported).items():
        np.testing.assert_array_equal(networks.state_dict()[name].numpy(), tensor)


def test_pth_of_pytorchs_own_modules_is_imported(tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    networks = torch_networks(deeper_config())
    torch.save(networks.state_dict(), tmp_path / "model.pth")
    import_torch(tmp_path / "model.pth", deeper_config(), tmp_path / "run")
    model = load_model(tmp_path / "run")
    kernel = model.params["embedder"]["down1"]["conv1"]["kernel"]
    theirs = networks.embedder.down1.conv1.parametrizations.weight.original
    np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), theirs.detach())
    np.testing.assert_array_equal(
        model.discriminator["w0"], networks.discriminator.w0.detach()
    )
