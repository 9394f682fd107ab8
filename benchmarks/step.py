"""The meta-training step against the same step in plain PyTorch: `python -m benchmarks.step`.

The same networks, losses and batch, and the same precision unless `--torch-dtype` says
otherwise; the content loss is the pixel pyramid, which both have. Compiling is timed
apart. Beside PyTorch ours takes one device, without it all. `--torch-python` names an
environment that has PyTorch, if this one has not.
"""

from __future__ import annotations

import argparse
import functools
import time

import jax
import numpy as np

from benchmarks import in_turn, report, torch_side
from data_pipeline.errors import InputError
from flax_heads import parallel, recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    report.add_flags(parser)
    report.add_config_flags(parser)
    torch_side.add_flags(parser)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--num-support", type=int, default=4)
    dtypes = ("float32", "bfloat16")
    parser.add_argument("--dtype", default="float32", choices=dtypes)
    parser.add_argument("--torch-dtype", choices=dtypes, help="PyTorch's, if another")
    parser.add_argument("--num-videos", type=int, default=128, help="rows of W")
    parser.add_argument("--remat", action="store_true", help="config.model.remat")
    parser.add_argument("--accumulate", type=int, default=1, help="config.accumulate")
    flags = parser.parse_args()
    flags.torch_dtype = flags.torch_dtype or flags.dtype
    if torch_side.serves(flags, serve_jax, serve_torch):
        return
    config, devices = _config(flags), _devices(flags)
    mesh = parallel.make_mesh(devices)
    try:
        parallel.check_batch_size(mesh, config.batch_size, config.accumulate)
    except InputError as error:
        parser.error(str(error))
    candidates = torch_side.candidates(flags, "benchmarks.step", {"flax-heads": "jax"})
    peak = report.matmul_peak(flags.dtype)
    rows = in_turn.compare(candidates, flags.rounds)
    images = config.batch_size * (config.num_support + 1)
    report.add_rates(rows, images, "images_per_s", {"flax-heads": peak * len(devices)})
    about = {
        "config": flags.config,
        "size, batch, K": (config.size, config.batch_size, config.num_support),
        "devices": len(devices),
        "dtype": flags.dtype,
        **({"dtype of PyTorch": flags.torch_dtype} if flags.torch else {}),
        "matmul peak of a device, GFLOP/s": peak / 1e9,
        **report.machine(),
    }
    report.show("meta-training step", rows, about, flags.json)


def serve_jax(flags: argparse.Namespace) -> None:
    from flax_heads.info import count_step_flops

    config = _config(flags)
    mesh = parallel.make_mesh(_devices(flags))
    init = functools.partial(recipe.new_state, config, flags.num_videos)
    state = parallel.jit_init(init, mesh)
    batch = next(parallel.place_batches(iter([make_batch(config)]), mesh))
    step = recipe.meta_step(config)
    start = time.perf_counter()
    step = parallel.compile_step(step, mesh, state, batch)
    seconds = time.perf_counter() - start

    def run():
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)

    memory = step.func.memory_analysis()
    in_turn.serve(
        run,
        {
            "compile_s": seconds,
            "flops": count_step_flops(config, state, batch),
            "buffers_mib": memory.temp_size_in_bytes / 2**20 if memory else None,
        },
    )


def serve_torch(flags: argparse.Namespace) -> None:
    torch = torch_side.load_torch()
    from tests import torch_models

    config = _config(flags)
    networks = torch_side.build(config)
    w = torch.nn.Parameter(
        torch.empty(flags.num_videos, config.model.embedder.channels[-1])
        .uniform_(-0.1, 0.1)
        .to(torch_side.device())
    )
    generator_side = [networks.embedder, networks.generator, networks.projection]
    optimizer_g = torch_side.adam(
        [p for m in generator_side for p in m.parameters()], 5e-5
    )
    optimizer_d = torch_side.adam([*networks.discriminator.parameters(), w], 2e-4)
    batch = {n: torch_side.to_device(v) for n, v in make_batch(config).items()}
    weights = config.loss.to_dict()
    if flags.serve == "compile":
        torch_side.compiled(networks, ("embedder", "generator", "discriminator"))

    def run():
        images = {
            name: value.long() if name == "video_index" else torch_side.to_images(value)
            for name, value in batch.items()
        }
        with torch_side.autocast(flags.torch_dtype):
            torch_models.meta_step(
                networks, w, optimizer_g, optimizer_d, images, weights
            )
        torch_side.finish()

    in_turn.serve(run)


def _config(flags: argparse.Namespace):
    config = report.config_of(flags)
    config.update(batch_size=flags.batch_size, num_support=flags.num_support)
    config.accumulate = flags.accumulate
    config.model.update(dtype=flags.dtype, remat=flags.remat)
    return config


def _devices(flags: argparse.Namespace) -> list[jax.Device]:
    """All of this machine; beside PyTorch, which takes one, the first."""
    return jax.devices()[:1] if flags.torch else jax.devices()


def make_batch(config) -> dict[str, np.ndarray]:
    """A random batch of the config's shapes, uint8."""
    rng = np.random.default_rng(0)
    b, k, side = config.batch_size, config.num_support, config.size

    def images(*lead):
        return rng.integers(0, 256, (*lead, side, side, 3), np.uint8)

    return {
        "support_frames": images(b, k),
        "support_rasters": images(b, k),
        "target_frame": images(b),
        "target_raster": images(b),
        "video_index": np.arange(b, dtype=np.int32),
    }


if __name__ == "__main__":
    main()
