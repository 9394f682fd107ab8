"""Export: one file that draws the same frames in a process without this project."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from data_pipeline.errors import InputError
from data_pipeline.raster import RasterStyle, draw_rasters
from flax_heads.export import export_stablehlo
from flax_heads.generator import Generator
from flax_heads.talking_head import TalkingHead

SIZE = 16

# What the README tells users to do.
_USE = """
import sys
for name in ("flax_heads", "data_pipeline", "configs", "flax"):
    sys.modules[name] = None  # an import of it raises
import jax
import numpy as np
from jax import export
draw = jax.jit(export.deserialize(open(sys.argv[1], "rb").read()).call)
rasters = np.load(sys.argv[2])
np.savez(sys.argv[3], three=draw(rasters), one=draw(rasters[:1]))
"""


@pytest.fixture(scope="module")
def head():
    attributes = {
        "channels": [8, 16],
        "num_residual_blocks": 1,
        "attention_after": 1,
        "up_attention_after": 1,
        "rectified_skip": False,
        "dtype": "float32",
    }
    module = Generator(**(attributes | {"channels": (8, 16)}))
    image = np.zeros((1, SIZE, SIZE, 3), np.float32)
    psi = np.random.default_rng(0).normal(1, 1, (1, module.psi_size))
    params = jax.jit(module.init)(jax.random.key(0), image, psi)["params"]
    landmarks = np.random.default_rng(1).uniform(2, 14, (3, 68, 2))
    return TalkingHead(
        generator=attributes,
        params=jax.device_get(params),
        psi=psi[0].astype(np.float32),
        size=SIZE,
        style=RasterStyle(),
        landmarks=landmarks.astype(np.float32),
        photos=np.zeros((3, SIZE, SIZE, 3), np.uint8),
        history={"model": "test"},
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_exported_head_draws_the_same_without_this_project(head, tmp_path, dtype):
    head = head.with_dtype(dtype)
    file = tmp_path / "head.stablehlo"
    beside = export_stablehlo(head, file)
    description = json.loads(beside.read_text())
    assert description["size"] == SIZE and description["dtype"] == dtype
    assert RasterStyle(**description["raster"]) == head.style
    assert description["platforms"] == ["cpu", "cuda", "tpu"]
    rasters = draw_rasters(head.landmarks, SIZE, head.style)
    np.save(tmp_path / "rasters.npy", rasters)
    paths = [file, tmp_path / "rasters.npy", tmp_path / "frames.npz"]
    subprocess.run(
        [sys.executable, "-c", _USE, *map(str, paths)],
        check=True,
        cwd=tmp_path,
        timeout=120,
    )
    frames = np.load(tmp_path / "frames.npz")
    ours = head.draw(rasters)
    assert frames["three"].dtype == np.uint8 and np.std(ours) > 1
    # Compiled apart, perhaps with another rounding.
    assert np.abs(frames["three"].astype(int) - ours).max() <= 1
    assert np.abs(frames["one"][0].astype(int) - ours[0]).max() <= 1


def test_unwritable_export_is_one_clear_line(head, tmp_path):
    with pytest.raises(InputError, match="gone"):
        export_stablehlo(head, tmp_path / "gone" / "head.stablehlo", ("cpu",))
