"""Learning one person against plain PyTorch: `python -m benchmarks.fine_tune`.

Iterations of fine-tuning on T random photos with the same networks and losses; the
content loss is the pixel pyramid. Ours in float32 and in bfloat16, as this backend runs
it: one program of many iterations on an accelerator, one call for each on the CPU.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks import in_turn, report, torch_side


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    report.add_flags(parser)
    report.add_config_flags(parser)
    torch_side.add_flags(parser)
    parser.add_argument("--photos", type=int, default=8, help="T")
    parser.add_argument("--iterations", type=int, default=1, help="in each timed run")
    dtypes = ("float32", "bfloat16")
    parser.add_argument("--torch-dtype", default="float32", choices=dtypes)
    flags = parser.parse_args()
    if torch_side.serves(flags, serve_jax, serve_torch):
        return
    ours = {f"flax-heads {dtype}": dtype for dtype in dtypes}
    candidates = torch_side.candidates(flags, "benchmarks.fine_tune", ours)
    rows = in_turn.compare(candidates, flags.rounds)
    config = report.config_of(flags)
    heads = flags.iterations / config.fine_tune.num_iterations
    report.add_rates(rows, flags.iterations, "iterations_per_s")
    report.add_rates(rows, 3600 * heads, "heads_per_hour")
    about = {
        "config": flags.config,
        "size, T, batch": (config.size, flags.photos, config.fine_tune.batch_size),
        "iterations of a head": config.fine_tune.num_iterations,
        **({"dtype of PyTorch": flags.torch_dtype} if flags.torch else {}),
        **report.machine(),
    }
    report.show("fine-tuning", rows, about, flags.json)


def serve_jax(flags: argparse.Namespace) -> None:
    import jax

    from flax_heads import recipe
    from flax_heads.fine_tuning import run_fine_tuning
    from flax_heads.meta_model import MetaModel

    config = report.config_of(flags)
    config.model.dtype = flags.serve
    state = jax.jit(lambda: recipe.new_state(config, 1))()
    model = MetaModel.of_state(config, state, source="random weights")
    start, advance = model.compiled_start, model.compiled_advance
    photos, rasters = _photos(flags, config)
    person = start(*model.learned, photos, rasters, key=jax.random.key(0))

    def run():
        nonlocal person
        person = run_fine_tuning(
            advance,
            person,
            photos,
            rasters,
            num_iterations=flags.iterations,
            seed=0,
        )
        jax.block_until_ready(person)

    in_turn.serve(run)


def serve_torch(flags: argparse.Namespace) -> None:
    torch = torch_side.load_torch()
    from tests import torch_models

    config = report.config_of(flags)
    networks = torch_side.build(config)
    size = 2 * sum(networks.generator.style_channels)
    psi = torch.nn.Parameter(torch.randn(size, device=torch_side.device()))
    optimizer_g = torch_side.adam([*networks.generator.parameters(), psi], 5e-5)
    optimizer_d = torch_side.adam(networks.discriminator.parameters(), 2e-4)
    photos, rasters = map(torch_side.to_device, _photos(flags, config))
    weights = config.loss.to_dict()
    batch_size = min(config.fine_tune.batch_size, flags.photos)
    if flags.serve == "compile":
        torch_side.compiled(networks, ("generator", "discriminator"))

    def run():
        for _ in range(flags.iterations):
            order = torch.randperm(flags.photos, device=photos.device)[:batch_size]
            with torch_side.autocast(flags.torch_dtype):
                torch_models.fine_tune_step(
                    networks.generator,
                    psi,
                    networks.discriminator,
                    optimizer_g,
                    optimizer_d,
                    torch_side.to_images(photos[order]),
                    torch_side.to_images(rasters[order]),
                    weights,
                )
        torch_side.finish()

    in_turn.serve(run)


def _photos(flags: argparse.Namespace, config) -> tuple[np.ndarray, np.ndarray]:
    """T random photos and rasters, uint8."""
    shape = (2, flags.photos, config.size, config.size, 3)
    photos, rasters = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return photos, rasters


if __name__ == "__main__":
    main()
