"""Our networks and our training step against plain PyTorch (`torch_models.py`).

The measure: |a - b| / |b| of a whole tensor in the Euclidean norm, b PyTorch's; for a
module the largest over its outputs, the largest over the gradients with respect to every
input and every parameter, and that of all gradients as one vector. Weights, biases, AdaIN
styles and attention's gamma are random, singular vectors unconverged, and the loss is a
random linear form of all outputs.

Most tests compute in float64. In float32 the outputs agree as well, but of a million
ReLU inputs one or two lie so near zero that rounding decides their sign, and each such
pixel changes the gradients by some thousandths of their length, in one framework as
between the two.

    python -m tests.test_torch_parity [size]     prints the table, by default at 256 px
"""

import contextlib
import functools
import sys
import unittest.mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax_heads import generator as generator_module
from flax_heads import layers, losses, objectives, spectral, video_embeddings
from flax_heads.discriminator import Discriminator
from flax_heads.embedder import Embedder
from flax_heads.generator import Generator, Projection
from flax_heads.meta_learning import make_meta_step
from flax_heads.state import start_player
from flax_heads.torch_weights import from_state_dict, to_state_dict
from flax_heads.video_embeddings import VideoEmbeddings
from tests import tiny, torch_models

TOLERANCE = 1e-4  # float32
DOUBLE_TOLERANCE = 1e-9
KEY = jax.random.key(0)


# --- Running one function on both sides


class _DoubleNumpy:
    """jax.numpy in whose eyes float32 is float64."""

    float32 = jnp.float64

    def __getattr__(self, name):
        return getattr(jnp, name)


@contextlib.contextmanager
def double_precision():
    """Both sides in float64; our modules name float32 where it is the least they need."""
    modules = (layers, generator_module, losses, objectives, video_embeddings)
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.enable_x64(True))
        for module in modules:
            patch = unittest.mock.patch.object(module, "jnp", _DoubleNumpy())
            stack.enter_context(patch)
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float64)
        yield


@pytest.fixture
def double():
    with double_precision():
        yield


def error(ours, theirs, negligible: float = 0.0) -> float:
    """|ours - theirs| / |theirs|; 0 where both are no longer than `negligible`."""
    ours, theirs = (np.asarray(x, np.float64) for x in (ours, theirs))
    assert ours.shape == theirs.shape
    if max(np.linalg.norm(ours), np.linalg.norm(theirs)) <= negligible:
        return 0.0
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def random_arrays(*shapes, seed=1):
    """Normal numbers of the precision in force."""
    rng = np.random.default_rng(seed)
    dtype = jnp.result_type(float)
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def random_like(params, seed: int):
    """Parameters of the same shapes: scales about 1, everything else about 0."""
    leaves, tree = jax.tree.flatten_with_path(params)
    values = random_arrays(*(leaf.shape for _, leaf in leaves), seed=seed)
    return tree.unflatten(
        np.asarray(0.3 * value + (path[-1].key == "scale"), value.dtype)
        for (path, _), value in zip(leaves, values)
    )


def to_torch(array):
    """Images [..., H, W, C] become [..., C, H, W]; the rest stays as it is."""
    array = np.asarray(array)
    if array.ndim >= 4:
        array = np.moveaxis(array, -1, -3)
    return torch.from_numpy(array.copy())


def to_numpy(tensor):
    array = tensor.detach().numpy()
    return np.moveaxis(array, 1, -1) if array.ndim == 4 else array


def load(module, params, vectors):
    tensors = to_state_dict(params, vectors)
    module.load_state_dict(
        {name: torch.from_numpy(tensor) for name, tensor in tensors.items()},
        strict=True,
    )
    return module.eval()  # training mode would iterate the singular vectors


def plainly(module, *inputs):
    return module(*inputs)


def compare(ours, module, inputs, call=plainly, *, backward=True):
    """Runs a linen module and a torch module with the same weights, there and back.

    Args:
      ours, module: the linen module and the torch module.
      inputs: numpy arrays.
      call: (module, *inputs) -> outputs, where it is not a plain call.
      backward: whether gradients are compared as well.

    Returns:
      error [of outputs, of gradients one by one, of all gradients as one vector].
    """
    initialize = functools.partial(ours.init, method=call)
    params = random_like(jax.eval_shape(initialize, KEY, *inputs)["params"], seed=0)
    vectors = jax.jit(spectral.init_vectors)(params, KEY)

    def forward(params, inputs):
        params = spectral.normalize(params, vectors)
        return jax.tree.leaves(ours.apply({"params": params}, *inputs, method=call))

    load(module, params, vectors)
    tensors = [to_torch(x).requires_grad_(backward) for x in inputs]
    results = jax.tree.leaves(call(module, *tensors))
    probes = random_arrays(*(to_numpy(result).shape for result in results), seed=2)

    @jax.jit
    def there_and_back(params, inputs):
        if not backward:
            return forward(params, inputs), None, None
        outputs, pull_back = jax.vjp(forward, params, inputs)
        return outputs, *pull_back(probes)

    outputs, gradients, input_gradients = there_and_back(params, inputs)
    pairs = zip(outputs, results, strict=True)
    errors = [max(error(a, to_numpy(b)) for a, b in pairs)]
    if backward:
        sum((r * to_torch(p)).sum() for r, p in zip(results, probes)).backward()
        theirs = [to_numpy(tensor.grad) for tensor in tensors]
        errors += gradient_errors(gradients, module, list(zip(input_gradients, theirs)))
    return errors


def gradient_errors(gradients, module, pairs=()) -> list[float]:
    """Errors of the gradients left in a torch module: the largest, and all together.

    Args:
      gradients: our tree of them; it may be a part of the module.
      module: after `backward`.
      pairs: further gradients to judge, (ours, torch's).
    """
    theirs = {name: p.grad.numpy() for name, p in module.named_parameters()}
    ours = to_state_dict(gradients, {})
    pairs = [*pairs, *((ours[name], theirs[name]) for name in ours)]
    # Rounding is all that some gradients are made of: whatever the bias of a late skip
    # adds to a channel, the last AdaIN takes away.
    largest = max(np.linalg.norm(b) for _, b in pairs)
    rounding = 8 * np.finfo(jnp.result_type(float)).eps * largest
    together = (np.concatenate([np.ravel(x) for x in side]) for side in zip(*pairs))
    return [max(error(a, b, rounding) for a, b in pairs), error(*together)]


# --- What is compared: (our module, torch's, inputs[, how to call them])


def residual_block(inputs, outputs, resample, norm, rectified_skip=False):
    shapes, call = [(2, 8, 8, inputs)], plainly
    if norm == "adaptive":
        shapes += [(2, c) for c in (inputs, inputs, outputs, outputs)]

        def call(block, x, *styles):
            return block(x, (styles[:2], styles[2:]))

    options = (resample, norm, rectified_skip)
    return (
        layers.ResidualBlock(outputs, *options, dtype=jnp.result_type(float)),
        torch_models.ResidualBlock(inputs, outputs, *options),
        random_arrays(*shapes),
        call,
    )


def first_block():
    ours = layers.FirstBlock(24, dtype=jnp.result_type(float))
    return ours, torch_models.FirstBlock(6, 24), random_arrays((2, 8, 8, 6))


def attention(channels=32):
    ours = layers.SelfAttention(dtype=jnp.result_type(float))
    x = random_arrays((2, 8, 8, channels))
    return ours, torch_models.SelfAttention(channels), x


def embedder(size, **options):
    ours = Embedder(**options, dtype=jnp.result_type(float))
    image = (1, size, size, 3)
    return ours, torch_models.Embedder(**options), random_arrays(image, image)


def generator(size, **options):
    ours = Generator(**options, dtype=jnp.result_type(float))
    inputs = random_arrays((1, size, size, 3), (1, ours.psi_size))
    return ours, torch_models.Generator(**options), inputs


def projection():
    of = Generator()
    theirs = torch_models.Projection(512, of.psi_size)
    return Projection(of.style_channels), theirs, random_arrays((2, 512))


def discriminator(size, **options):
    ours = Discriminator(**options, dtype=jnp.result_type(float))
    image = (1, size, size, 3)
    inputs = random_arrays(image, image, (1, ours.channels[-1]))
    return ours, torch_models.Discriminator(**options), inputs


# --- Blocks


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("norm", [None, "instance", "adaptive"])
@pytest.mark.parametrize("resample", [None, "down", "up"])
def test_residual_block(resample, norm):
    errors = compare(*residual_block(12, 20, resample, norm))
    assert max(errors) <= DOUBLE_TOLERANCE


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("norm", [None, "instance", "adaptive"])
def test_residual_block_with_identity_skip(norm):
    assert max(compare(*residual_block(16, 16, None, norm))) <= DOUBLE_TOLERANCE


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("resample", [None, "down", "up"])
def test_residual_block_with_rectified_skip(resample):
    errors = compare(*residual_block(12, 20, resample, None, rectified_skip=True))
    assert max(errors) <= DOUBLE_TOLERANCE


@pytest.mark.usefixtures("double")
def test_first_block():
    assert max(compare(*first_block())) <= DOUBLE_TOLERANCE


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("channels", [5, 32])
def test_self_attention(channels):
    assert max(compare(*attention(channels))) <= DOUBLE_TOLERANCE


# --- Networks: outputs at the paper's widths; gradients, and every flag, at small ones


@pytest.mark.parametrize("network", [embedder, generator, discriminator])
def test_network_of_the_papers_width_in_float32(network):
    assert max(compare(*network(64), backward=False)) <= TOLERANCE


def test_projection_in_float32():
    assert max(compare(*projection())) <= TOLERANCE


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    "flags",
    [{}, {"relu_before_sum": True}, {"rectified_skip": True}],
    ids=["paper", "relu_before_sum", "rectified_skip"],
)
@pytest.mark.parametrize("network", [embedder, discriminator])
def test_embedder_and_discriminator(network, flags):
    small = network(16, channels=(8, 16, 16), attention_after=2, **flags)
    assert max(compare(*small)) <= DOUBLE_TOLERANCE


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("rectified_skip", [False, True])
def test_generator(rectified_skip):
    small = generator(
        16,
        channels=(8, 16),
        num_residual_blocks=2,
        attention_after=2,
        up_attention_after=1,
        rectified_skip=rectified_skip,
    )
    assert max(compare(*small)) <= DOUBLE_TOLERANCE


# --- Spectral norm

WEIGHT = "layer.parametrizations.weight"


def one_layer(kind):
    """(our parameters, our vectors, a torch layer of that shape)."""
    if kind == "conv":
        shape, layer = (3, 3, 5, 7), torch.nn.Conv2d(5, 7, 3, padding=1, bias=False)
    else:
        shape, layer = (5, 7), torch.nn.Linear(5, 7, bias=False)
    params = {"layer": {"kernel": random_arrays(shape)[0]}}
    return params, spectral.init_vectors(params, KEY, num_iterations=1), layer


@pytest.mark.parametrize("kind", ["conv", "dense"])
def test_power_iteration_is_that_of_torchs_spectral_norm_hook(kind):
    """One forward pass in training mode is one of our updates: same u, v and W / sigma."""
    params, vectors, layer = one_layer(kind)
    layer = torch.nn.utils.spectral_norm(layer, eps=torch_models.EPS)
    tensors = to_state_dict(params, vectors)
    layer.load_state_dict(
        {
            "weight_orig": torch.from_numpy(tensors[f"{WEIGHT}.original"]),
            "weight_u": torch.from_numpy(tensors[f"{WEIGHT}.0._u"]),
            "weight_v": torch.from_numpy(tensors[f"{WEIGHT}.0._v"]),
        }
    )
    for _ in range(3):
        vectors = spectral.power_iteration(params, vectors)
        layer(torch.ones((1, 5, 4, 4) if kind == "conv" else (1, 5)))
        tensors = to_state_dict(spectral.normalize(params, vectors), vectors)
        assert error(tensors[f"{WEIGHT}.0._u"], layer.weight_u) <= 1e-5
        assert error(tensors[f"{WEIGHT}.0._v"], layer.weight_v) <= 1e-5
        assert error(tensors[f"{WEIGHT}.original"], layer.weight.detach()) <= 1e-5


@pytest.mark.parametrize("kind", ["conv", "dense"])
def test_power_iteration_is_half_a_turn_from_the_parametrization(kind):
    """It renews u and then v, and we v and then u: one sequence, cut elsewhere."""
    params, vectors, layer = one_layer(kind)
    vectors = spectral.power_iteration(params, vectors)
    module = torch.nn.Module()
    module.layer = torch_models.spectral_norm(layer, eps=torch_models.EPS)
    load(module, params, vectors)
    for _ in range(3):
        following = spectral.power_iteration(params, vectors)
        between = to_state_dict(params, vectors)
        between[f"{WEIGHT}.0._v"] = to_state_dict(params, following)[f"{WEIGHT}.0._v"]
        module.train()
        normalized = module.layer.weight.detach()  # in training mode, reading iterates
        module.eval()
        for name, tensor in module.state_dict().items():
            assert error(between[name], tensor) <= 1e-5, name
        _, pair = from_state_dict(between, params, vectors)
        ours = to_state_dict(spectral.normalize(params, pair), {})
        assert error(ours[f"{WEIGHT}.original"], normalized) <= 1e-5
        vectors = following


# --- Whole steps of meta-training


def compare_meta_steps(steps: int) -> dict[str, float]:
    """Runs meta-training of `tiny.NETWORKS` on both sides, in the precision in force.

    Returns:
      largest errors of the first step's losses and gradients, and of what there is
      after the last step.
    """
    networks = tiny.networks_with(dtype=jnp.result_type(float))
    adams = tiny.GENERATOR_ADAM, tiny.DISCRIMINATOR_ADAM
    state = random_state(*adams)
    step = jax.jit(make_meta_step(networks, *adams, tiny.WEIGHTS))

    theirs = load(torch_networks(), *everything(state))
    w = torch.nn.Parameter(to_torch(state.video_embeddings.values))
    of_d = set(theirs.discriminator.parameters())
    of_g = [p for p in theirs.parameters() if p not in of_d]
    optimizers = [
        torch.optim.Adam(group, lr=a.learning_rate, betas=(a.b1, a.b2), eps=a.eps)
        for group, a in zip((of_g, [*of_d, w]), adams)
    ]
    errors = {}
    for i in range(steps):
        batch, before = tiny.make_batch(seed=i), state
        state, metrics = step(state, batch)
        values = torch_models.meta_step(
            theirs, w, *optimizers, torch_batch(batch), vars(tiny.WEIGHTS)
        )
        if i == 0:
            errors["losses"] = max(
                error(metrics[f"loss/{name}"], value) for name, value in values.items()
            )
            # Adam's second moment is (1 - b2) g^2 now, and each step went against g.
            gradients = jax.tree.map(
                lambda old, new, nu: (
                    np.sign(old - new) * np.sqrt(nu / (1 - adams[0].b2))
                ),
                before.generator.params,
                state.generator.params,
                state.generator.opt_state[0].nu,
            )
            errors["gradients of E, G, P"], _ = gradient_errors(gradients, theirs)
    ours = to_state_dict(*everything(state)) | {"w": state.video_embeddings.values}
    expected = {**theirs.state_dict(), "w": w.detach()}
    assert set(ours) == set(expected)
    after = f"parameters, W, u, v after {steps} steps"
    errors[after] = max(error(ours[name], expected[name]) for name in expected)
    return errors


def random_state(generator_adam, discriminator_adam):
    """Like `tiny.new_state()`, with random biases, scales and gammas."""
    shapes = jax.eval_shape(tiny.make_state)

    def player(like, seed, adam):
        params = random_like(like.params, seed)
        return start_player(params, jax.jit(spectral.init_vectors)(params, KEY), adam)

    generator = player(shapes.generator, 3, generator_adam)
    (w,) = random_arrays(shapes.video_embeddings.values.shape)
    return shapes.replace(
        step=jnp.zeros((), jnp.int32),
        generator=generator,
        discriminator=player(shapes.discriminator, 4, discriminator_adam),
        video_embeddings=VideoEmbeddings(
            0.1 * w, jnp.zeros_like(w), jnp.zeros(len(w), jnp.int32)
        ),
        ema=generator.params,
    )


def everything(state):
    """(params, vectors) of all four networks."""
    theta = state.discriminator
    vectors = {f"discriminator/{k}": v for k, v in theta.vectors.items()}
    return (
        {**state.generator.params, "discriminator": theta.params},
        {**state.generator.vectors, **vectors},
    )


def torch_networks():
    def options(module, *names):
        shared = ("channels", "attention_after", "rectified_skip")
        return {name: getattr(module, name) for name in (*shared, *names)}

    return torch_models.Networks(
        options(tiny.NETWORKS.embedder, "relu_before_sum"),
        options(tiny.NETWORKS.generator, "num_residual_blocks", "up_attention_after"),
        options(tiny.NETWORKS.discriminator, "relu_before_sum"),
    )


def torch_batch(batch):
    dtype = torch.get_default_dtype()
    images = {
        name: to_torch(values / 127.5 - 1).to(dtype)
        for name, values in batch.items()
        if values.dtype == np.uint8
    }
    return images | {"video_index": torch.from_numpy(batch["video_index"]).long()}


@pytest.mark.usefixtures("double")
def test_meta_training_steps():
    """Two updates of V, w0, b and W, then one of E, G and P, three times over.

    Equal to the ninth digit, so nothing leaks: -r-hat does not move V, nor L_MCH W.
    """
    errors = compare_meta_steps(3)
    assert max(errors.values()) <= DOUBLE_TOLERANCE, errors


# --- The table


def print_table(size: int) -> None:
    where = "12 to 20 channels, 8 px"
    rows = [
        (f"residual block, {resample}, norm: {norm}", where, residual_block, arguments)
        for resample in (None, "down", "up")
        for norm in (None, "instance", "adaptive")
        for arguments in [(12, 20, resample, norm)]
    ]
    full = f"full width, {size} px"
    rows += [
        ("first block", "24 channels, 8 px", first_block, ()),
        ("self-attention", "32 channels, 8 px", attention, ()),
        ("E", full, embedder, (size,)),
        ("G", full, generator, (size,)),
        ("P", "full width", projection, ()),
        ("V, w0, b", full, discriminator, (size,)),
    ]
    columns = [
        f"{what}, {precision}"
        for precision in ("f32", "f64")
        for what in ("outputs", "gradients, worst", "gradients, all")
    ]
    print("| module | at |", " | ".join(columns), "|")
    print("|---" * (2 + len(columns)) + "|")
    for name, where, build, arguments in rows:
        errors = compare(*build(*arguments))
        with double_precision():
            errors += compare(*build(*arguments))
        print(f"| {name} | {where} |", *(f"{e:.0e} |" for e in errors), flush=True)
    for name, context in (
        ("f32", contextlib.nullcontext()),
        ("f64", double_precision()),
    ):
        with context:
            errors = compare_meta_steps(3)
        shown = "; ".join(f"{what} {e:.0e}" for what, e in errors.items())
        print(f"meta-training, 16 px, {name}: {shown}")


if __name__ == "__main__":
    print_table(int(sys.argv[1]) if len(sys.argv) > 1 else 256)
