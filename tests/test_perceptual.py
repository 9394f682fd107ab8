"""perceptual.py against VGGs written down as torchvision's lists of layers."""

import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.errors import InputError
from flax_heads import losses
from flax_heads.objectives import PerceptualNetwork
from flax_heads.perceptual import (
    as_perceptual,
    load_vgg19,
    load_vggface,
    vgg_features,
)

# Output channels of the convolutions, each with its ReLU, and P for pooling: torchvision's
# configurations E and D. The taps are numbers of ReLUs in the list of layers.
VGG19 = "64 64 P 128 128 P 256 256 256 256 P 512 512 512 512 P 512".split()
VGG16 = "64 64 P 128 128 P 256 256 256 P 512 512 512 P 512".split()
TAPS = {"vgg19": [1, 6, 11, 20, 29], "vggface": [1, 6, 11, 18, 25]}
NAMES = {
    "vgg19": "1_1 1_2 2_1 2_2 3_1 3_2 3_3 3_4 4_1 4_2 4_3 4_4 5_1".split(),
    "vggface": "1_1 1_2 2_1 2_2 3_1 3_2 3_3 4_1 4_2 4_3 5_1".split(),
}
LOAD = {"vgg19": load_vgg19, "vggface": load_vggface}

features = jax.jit(vgg_features)


def layer_list(plan):
    """("conv" | "relu" | "pool", channels) as in torchvision's `features`."""
    for item in plan:
        if item == "P":
            yield "pool", None
        else:
            yield "conv", int(item)
            yield "relu", None


LAYERS = {"vgg19": list(layer_list(VGG19)), "vggface": list(layer_list(VGG16))}


def random_weights(network):
    """By index in the list of layers: (kernel [O, I, 3, 3], bias [O])."""
    rng = np.random.default_rng(len(network))
    weights, inputs = {}, 3
    for i, (kind, outputs) in enumerate(LAYERS[network]):
        if kind == "conv":
            kernel = rng.standard_normal((outputs, inputs, 3, 3), np.float32)
            bias = rng.standard_normal(outputs, np.float32)
            # The first layer sees [0, 255].
            scale = np.sqrt(2 / (9 * inputs)) / (1 if i else 60)
            weights[i] = kernel * np.float32(scale), bias * np.float32(0.1)
            inputs = outputs
    return weights


def numbered(weights):
    tensors = {"classifier.0.weight": np.ones((2, 4), np.float32)}
    for i, (kernel, bias) in weights.items():
        tensors |= {f"features.{i}.weight": kernel, f"features.{i}.bias": bias}
    return tensors


def named(network, weights, kernel_name, bias_name, keras=False):
    """`*` in the names stands for 1_1, 1_2 and so on, `%` for the block's number."""
    tensors = {}
    for name, (kernel, bias) in zip(NAMES[network], weights.values(), strict=True):
        block, index = name.split("_")
        kernel = kernel.transpose(2, 3, 1, 0) if keras else kernel
        for pattern, array in ((kernel_name, kernel), (bias_name, bias)):
            key = pattern.replace("*", name).replace("%", block).replace("$", index)
            tensors[key] = array
    return tensors


def write_h5(path, tensors):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, array in tensors.items():
            file[name] = array


@pytest.fixture(scope="module")
def weights():
    return {network: random_weights(network) for network in LAYERS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights")
    yield path
    shutil.rmtree(path)  # 300 MB, which pytest would keep for three runs


@pytest.fixture(scope="module")
def files(folder, weights):
    """The same random VGGs in the files and the conventions of each publisher."""
    np.savez(folder / "vgg19.npz", **numbered(weights["vgg19"]))
    for mark in ("d01eb7cb", "dcbb9e9d"):
        os.link(folder / "vgg19.npz", folder / f"vgg19-{mark}.npz")
    face = named("vggface", weights["vggface"], "conv*.weight", "conv*.bias")
    np.savez(folder / "vgg_face_dag.npz", **face)
    os.link(folder / "vgg_face_dag.npz", folder / "vggface.npz")
    return folder


def normalized(frames, source):
    """Frames [-1, 1] RGB as `source` was trained: written out, to be checked by eye."""
    rgb = (np.asarray(frames, np.float64) + 1) / 2
    bgr = rgb[..., ::-1] * 255
    return {
        "torchvision": lambda: (rgb - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
        "caffe": lambda: bgr - [103.939, 116.779, 123.68],
        "faces bgr": lambda: bgr - [93.5940, 104.7624, 129.1863],
        "faces rgb": lambda: rgb * 255 - [129.1863, 104.7624, 93.5940],
    }[source]()


def reference(network, weights, x):
    """The taps in numpy, in x's own type, from x as the network was trained to see it."""
    taps = []
    for i, (kind, _) in enumerate(LAYERS[network]):
        if kind == "conv":
            kernel, bias = weights[network][i]
            padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            h, w = x.shape[1:3]
            x = bias + sum(
                padded[:, r : r + h, c : c + w] @ kernel[:, :, r, c].T.astype(x.dtype)
                for r in range(3)
                for c in range(3)
            )
        elif kind == "relu":
            x = np.maximum(x, 0)
        else:
            b, h, w, c = x.shape
            x = x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))
        if i in TAPS[network]:
            assert kind == "relu"
            taps.append(x)
    return taps


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(1).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)


def assert_close(ours, theirs, tolerance=1e-4):
    assert len(ours) == len(theirs) == 5
    for a, b in zip(ours, theirs):
        assert a.shape == b.shape
        assert np.abs(a - b).max() < tolerance * np.abs(b).max()


@pytest.mark.parametrize(
    ("network", "file", "source", "convention"),
    [
        ("vgg19", "vgg19.npz", "caffe", "caffe"),
        ("vgg19", "vgg19.npz", "torchvision", "torchvision"),
        ("vggface", "vggface.npz", "matconvnet", "faces rgb"),
        ("vggface", "vggface.npz", "caffe", "faces bgr"),
    ],
)
def test_taps(files, weights, frames, network, file, source, convention):
    variables = LOAD[network](files / file, source)
    taps = features(variables, frames)
    assert [t.shape[3] for t in taps] == [64, 128, 256, 512, 512]
    assert [t.shape[1] for t in taps] == [32, 16, 8, 4, 2]
    assert_close(taps, reference(network, weights, normalized(frames, convention)))
    # Nothing is kept, or computed, past conv5_1.
    convs = {f"conv{name}" for name in NAMES[network]}
    assert variables.keys() == convs | {"mean"}


@pytest.mark.parametrize(
    ("network", "file", "source"),
    [
        ("vgg19", "vgg19-d01eb7cb.npz", "caffe"),
        ("vgg19", "vgg19-dcbb9e9d.npz", "torchvision"),
        ("vggface", "vgg_face_dag.npz", "matconvnet"),
    ],
)
def test_source_by_the_name_of_the_file(files, network, file, source):
    jax.tree.map(
        np.testing.assert_array_equal,
        LOAD[network](files / file),
        LOAD[network](files / file, source),
    )


@pytest.mark.parametrize(
    ("network", "kernel", "bias", "convention"),
    [
        ("vgg19", "block%_conv$/block%_conv$_W_1:0", "block%_conv$/x_b_1:0", "caffe"),
        ("vggface", "conv*/conv*/kernel:0", "conv*/conv*/bias:0", "faces bgr"),
    ],
)
def test_taps_of_keras(folder, weights, frames, network, kernel, bias, convention):
    tensors = named(network, weights[network], kernel, bias, keras=True)
    optimizer = {f"optimizer_weights/{name}": a[:1] for name, a in tensors.items()}
    write_h5(folder / f"{network}.h5", tensors | optimizer)
    taps = features(LOAD[network](folder / f"{network}.h5"), frames)
    assert_close(taps, reference(network, weights, normalized(frames, convention)))


def test_files_of_one_network_are_one_tree(folder, files, weights):
    """Kernels that differ only in the channels' order and scale load as equal."""
    pytest.importorskip("safetensors")
    from safetensors.numpy import save_file

    caffe = load_vgg19(files / "vgg19.npz", "caffe")
    kernel, bias = weights["vgg19"][0]
    std = np.float32([0.229, 0.224, 0.225])[:, None, None] * 255
    in_rgb = np.ascontiguousarray(kernel[:, ::-1]) * std
    tensors = numbered(weights["vgg19"] | {0: (in_rgb, bias)})
    save_file(tensors, folder / "vgg19.safetensors")
    loaded = load_vgg19(folder / "vgg19.safetensors", "torchvision")
    np.testing.assert_allclose(caffe.pop("mean"), [123.68, 116.779, 103.939], rtol=1e-6)
    np.testing.assert_allclose(loaded.pop("mean"), [123.675, 116.28, 103.53], rtol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(loaded), jax.tree.leaves(caffe)):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize(
    ("network", "file", "source", "convention"),
    [
        ("vgg19", "vgg19.npz", "caffe", "caffe"),
        ("vgg19", "vgg19.npz", "torchvision", "torchvision"),
        ("vggface", "vggface.npz", "matconvnet", "faces rgb"),
        ("vggface", "vggface.npz", "caffe", "faces bgr"),
    ],
)
def test_input_of_the_first_layer(files, network, file, source, convention):
    """conv1_1 is made to hand on its input: grey is (127.5 - mean), colours in order."""
    kernel = np.zeros((64, 3, 3, 3), np.float32)
    for channel in range(3):  # x and -x, so that the ReLU loses nothing
        kernel[channel, channel, 1, 1] = 1
        kernel[channel + 3, channel, 1, 1] = -1
    with np.load(files / file) as archive:
        tensors = dict(archive)
    for name, array in tensors.items():
        if array.shape == kernel.shape:
            tensors[name] = kernel
    np.savez(files / "changed.npz", **tensors)
    variables = LOAD[network](files / "changed.npz", source)
    variables["conv1_1"]["bias"] = np.zeros(64, np.float32)
    grey = np.zeros((1, 16, 16, 3), np.float32)
    orange = np.broadcast_to(np.float32([0.9, 0.2, -0.7]), (1, 16, 16, 3))
    for frame in (grey, orange):
        tap = np.asarray(features(variables, frame)[0])
        np.testing.assert_allclose(
            tap[..., :3] - tap[..., 3:6], normalized(frame, convention), atol=2e-5
        )


def test_wrong_scale_or_order_is_seen(files, frames):
    """The most common fault of the re-implementations."""
    variables = load_vgg19(files / "vgg19.npz", "caffe")
    right = features(variables, frames)
    unit_range = features(variables, (frames + 1) / 255 - 1)
    swapped = features(variables, frames[..., ::-1])
    as_torchvision = features(load_vgg19(files / "vgg19.npz", "torchvision"), frames)
    for wrong in (unit_range, swapped, as_torchvision):
        for a, b in zip(right, wrong):
            assert jnp.abs(a - b).mean() > 0.1 * jnp.abs(a).mean()


@pytest.mark.parametrize("network", ["vgg19", "vggface"])
def test_content_loss_gradient_reaches_the_frame(files, weights, frames, network):
    file, source = {
        "vgg19": ("vgg19.npz", "caffe"),
        "vggface": ("vggface.npz", "matconvnet"),
    }[network]
    apply, variables = as_perceptual(LOAD[network](files / file, source))
    net = PerceptualNetwork(network, 0.15, apply, variables)
    fake, real = frames[:1], frames[1:]

    @jax.jit
    def loss(variables, fake, real):
        ours, theirs = net.apply(variables, fake), net.apply(variables, real)
        return net.weight * losses.content_loss(ours, theirs)

    gradient = jax.jit(jax.grad(loss, 1))(net.variables, fake, real)
    assert gradient.shape == fake.shape
    assert jnp.isfinite(gradient).all()
    assert (gradient != 0).mean() > 0.99
    assert loss(variables, fake, fake) == 0
    # Its slope along a direction, by the reference in float64.
    convention = {"vgg19": "caffe", "vggface": "faces rgb"}[network]
    direction = np.random.default_rng(2).standard_normal(fake.shape)
    target = reference(network, weights, normalized(real, convention))

    def along(t):
        taps = reference(network, weights, normalized(fake + t * direction, convention))
        return 0.15 * sum(np.abs(a - b).mean() for a, b in zip(taps, target))

    difference = (along(1e-6) - along(-1e-6)) / 2e-6
    assert float((gradient * direction).sum()) == pytest.approx(difference, rel=1e-3)


@pytest.mark.parametrize(("network", "new"), [("vgg19", False), ("vggface", True)])
def test_torch(folder, weights, frames, network, new):
    """Files of torch.save, forward and gradient: all as in torch."""
    torch = pytest.importorskip("torch")
    make = {
        "conv": lambda i, o: torch.nn.Conv2d(i, o, 3, padding=1),
        "relu": lambda i, o: torch.nn.ReLU(),
        "pool": lambda i, o: torch.nn.MaxPool2d(2),
    }
    layers, inputs = [], 3
    for kind, outputs in LAYERS[network]:
        layers.append(make[kind](inputs, outputs))
        inputs = outputs or inputs
    net = torch.nn.Module()
    net.features = torch.nn.Sequential(*layers)
    tensors = numbered(weights[network])
    del tensors["classifier.0.weight"]
    net.load_state_dict({n: torch.from_numpy(a) for n, a in tensors.items()})
    path = folder / f"{network}_torch.pth"
    torch.save(net.state_dict(), path, _use_new_zipfile_serialization=new)

    convention = {"vgg19": "caffe", "vggface": "faces bgr"}[network]
    variables = LOAD[network](path, "caffe")
    x = torch.from_numpy(frames).requires_grad_()
    mean = -normalized(np.full(3, -1.0), convention)
    y = ((x.flip(-1) + 1) * 127.5 - torch.tensor(mean, dtype=torch.float32)).movedim(
        -1, 1
    )
    taps = []
    for i, layer in enumerate(net.features):
        y = layer(y)
        if i in TAPS[network]:
            taps.append(y.movedim(1, -1))
    ours = features(variables, frames)
    assert_close(ours, [t.detach().numpy() for t in taps])
    readouts = [
        np.random.default_rng(i).standard_normal(t.shape) for i, t in enumerate(ours)
    ]
    sum((t * torch.tensor(r)).mean() for t, r in zip(taps, readouts)).backward()

    def readout(variables, frames, readouts):
        taps = vgg_features(variables, frames)
        return sum((t * r).mean() for t, r in zip(taps, readouts))

    gradient = jax.jit(jax.grad(readout, 1))(variables, frames, readouts)
    error = np.abs(gradient - x.grad.numpy()).max()
    assert error < 1e-4 * np.abs(x.grad.numpy()).max()


def tiny(network, **changes):
    """Tensors with the right names; only those of conv1_1 have the right shapes."""
    few = {i: (np.ones((1, 1, 3, 3)), np.ones(1)) for i in random_shapes(network)}
    few[0] = np.ones((64, 3, 3, 3)), np.ones(64)
    return numbered(few) | changes


def random_shapes(network):
    return [i for i, (kind, _) in enumerate(LAYERS[network]) if kind == "conv"]


def expect_error(path, match, load=load_vgg19, source="caffe", reason="bad_weights"):
    with pytest.raises(InputError, match=match) as caught:
        load(path, source)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert caught.value.reason == reason


def test_wrong_files(tmp_path):
    path = tmp_path / "a.npz"

    def write(tensors):
        np.savez(path, **tensors)

    write(tiny("vgg19"))
    expect_error(path, r"features.2.weight is \(1, 1, 3, 3\) where \(64, 64, 3, 3\)")
    expect_error(
        path, "has no kernel of VGGFace's conv4_1 .or features.17", load_vggface
    )
    write(tiny("vggface"))
    expect_error(path, "has no kernel of VGG19's conv3_4 .or features.16")
    write({n: a for n, a in tiny("vgg19").items() if n != "features.28.bias"})
    expect_error(path, "has no bias of VGG19's conv5_1")
    write(tiny("vgg19") | {"features.0.bias": np.full(64, np.nan)})
    expect_error(path, "features.0.bias is not finite")
    write(tiny("vgg19") | {"block1_conv1/kernel": np.ones(3)[None]})
    expect_error(path, "features.0.weight and block1_conv1/kernel could both be")
    ones = {i: (np.ones((1, 1, 3, 3)), np.ones(1)) for i in random_shapes("vgg19")}
    write(named("vgg19", ones, "conv*.weight", "conv*.bias"))
    expect_error(path, r"has conv3_4.weight, which VGGFace has not", load_vggface)
    write(named("vgg19", ones, "block%_conv$/kernel", "block%_conv$/bias"))
    expect_error(path, "has no kernel of VGGFace's conv1_1", load_vggface)


def test_unknown_sources(tmp_path):
    path = tmp_path / "vgg19.npz"
    np.savez(path, **tiny("vgg19"))
    unknown = {"reason": "unknown_source"}
    expect_error(
        path, "give the source: caffe or torchvision", source="auto", **unknown
    )
    expect_error(path, "auto, caffe, keras, torchvision", source="pytorch", **unknown)
    np.savez(path, **tiny("vggface"))
    wanted = "give the source: caffe or matconvnet"
    expect_error(path, wanted, load_vggface, source="auto", **unknown)


def test_too_small_frames():
    with pytest.raises(ValueError, match="too small"):
        vgg_features({}, jnp.zeros((1, 15, 32, 3)))
