"""inception.py against a plain torch module, and its loader on wrong files."""

import numpy as np
import pytest

from data_pipeline.errors import InputError
from flax_heads import inception


@pytest.fixture(scope="module")
def torch_model():
    torch = pytest.importorskip("torch")
    from tests.torch_inception import TorchInception

    torch.set_num_threads(1)  # its threads and XLA's are slow together
    torch.manual_seed(0)
    model = TorchInception().eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model


def pictures(height, width):
    """Noise and a ramp, uint8 [2, height, width, 3]."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    ramp = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3))
    return np.stack([noise, ramp]).astype(np.uint8)


def test_features_are_the_torch_modules(torch_model, tmp_path):
    import torch

    torch.save(torch_model.state_dict(), tmp_path / "inception.pth")
    variables = inception.load_inception(tmp_path / "inception.pth")
    frames = pictures(64, 80)
    features = inception.inception_features(variables, frames)
    with torch.no_grad():
        nchw = torch.from_numpy(frames).permute(0, 3, 1, 2)
        expected = torch_model(nchw.float() / 255).numpy()
    assert features.shape == (2, 2048)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(expected[0] - expected[1]).mean() > 0.05  # the frames do matter


@pytest.mark.parametrize("size", [(64, 80), (400, 600)], ids=["small", "large"])
def test_frames_are_resized_as_by_torch(size):
    torch = pytest.importorskip("torch")
    frames = pictures(*size)
    nchw = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    expected = torch.nn.functional.interpolate(
        nchw, size=(299, 299), mode="bilinear", align_corners=False
    )
    expected = expected.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(inception._resize(frames), expected, atol=1e-4)
    as_float = frames.astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(inception._resize(as_float), expected, atol=1e-4)


def test_number_of_parameters():
    """torchvision's 23,834,568 without the 1,000 classes (2,049,000)."""
    shapes = inception._kernel_shapes().values()
    assert len(shapes) == 94
    scales_and_shifts = 2 * sum(shape[-1] for shape in shapes)
    assert sum(map(np.prod, shapes)) + scales_and_shifts == 23_834_568 - 2_049_000


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"fc.weight": (1000, 2048)}, r"fc.weight is \(1000, 2048\) where \(1008,"),
        ({"fc.weight": (1008, 2048)}, r"Conv2d_1a_3x3.conv.weight is missing"),
        (
            {
                "fc.weight": (1008, 2048),
                "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
                "Conv2d_1a_3x3.bn.weight": (31,),
            },
            r"Conv2d_1a_3x3.bn.weight is \(31,\) where \(32,\) is expected; get pt_",
        ),
    ],
    ids=["torchvision's network", "missing", "wrong shape"],
)
def test_wrong_file_names_its_first_wrong_tensor(tmp_path, tensors, message):
    path = tmp_path / "inception.npz"
    np.savez(path, **{name: np.zeros(shape, "?") for name, shape in tensors.items()})
    with pytest.raises(InputError, match=f"inception.npz: its tensor {message}"):
        inception.load_inception(path)
