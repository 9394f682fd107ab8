"""Learning one person against plain PyTorch: `python -m benchmarks.fine_tune`.

Iterations of fine-tuning on T random photos with the same networks, losses and precision;
the content loss is the pixel pyramid. Ours as this backend runs it: one program of many
iterations on an accelerator, one call for each on the CPU.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

from benchmarks import in_turn, report, torch_side
from flax_heads.info import load_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    report.add_flags(parser)
    parser.add_argument("--config", default="configs/voxceleb2.py")
    parser.add_argument("--size", type=int, help="pixels; the config's by default")
    parser.add_argument("--photos", type=int, default=8, help="T")
    parser.add_argument("--iterations", type=int, default=3, help="in each timed run")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument(
        "--torch",
        nargs="*",
        default=["eager", "compile"],
        choices=list(torch_side.NAMES),
        help="which of PyTorch's ways; none after it: ours alone",
    )
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.serve:
        (serve_torch if flags.serve in torch_side.NAMES else serve_jax)(flags)
        return

    def command(python, name):
        return [python, "-m", "benchmarks.fine_tune", *sys.argv[1:], f"--serve={name}"]

    candidates = {"flax-heads": command(sys.executable, "jax")}
    for name in flags.torch:
        candidates[torch_side.NAMES[name]] = command(flags.torch_python, name)
    rows = in_turn.compare(candidates, flags.rounds)
    config = _config(flags)
    for row in rows:
        if row.get("seconds"):
            row["iterations_per_s"] = flags.iterations / row["seconds"]
            row["heads_per_hour"] = (
                3600 * row["iterations_per_s"] / config.fine_tune.num_iterations
            )
    about = {
        "config": flags.config,
        "size, T, batch": (config.size, flags.photos, config.fine_tune.batch_size),
        "iterations of a head": config.fine_tune.num_iterations,
        "dtype": flags.dtype,
        **report.machine(),
    }
    report.show("fine-tuning", rows, about, flags.json)


def serve_jax(flags: argparse.Namespace) -> None:
    import jax

    from flax_heads import recipe
    from flax_heads.fine_tuning import run_fine_tuning
    from flax_heads.meta_model import MetaModel

    config = _config(flags)
    state = jax.jit(lambda: recipe.new_state(config, 1))()
    model = MetaModel(
        config=config,
        step=0,
        networks=recipe.networks(config),
        params=state.ema,
        vectors=state.generator.vectors,
        discriminator=state.discriminator.params,
        discriminator_vectors=state.discriminator.vectors,
        source="random weights",
    )
    start, advance = model.tuner
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

    begin = time.perf_counter()
    run()
    in_turn.serve(run, {"compile_s": time.perf_counter() - begin})


def serve_torch(flags: argparse.Namespace) -> None:
    torch = torch_side.load_torch()
    from tests import torch_models

    config = _config(flags)
    networks = torch_side.build(config)
    size = 2 * sum(networks.generator.style_channels)
    psi = torch.nn.Parameter(torch.randn(size, device=torch_side.device()))
    optimizer_g = torch_side.adam([*networks.generator.parameters(), psi], 5e-5)
    optimizer_d = torch_side.adam(networks.discriminator.parameters(), 2e-4)
    photos, rasters = map(torch_side.to_device, _photos(flags, config))
    weights = {n: config.loss[n] for n in ("pixel", "adversarial", "feature_matching")}
    batch_size = min(config.fine_tune.batch_size, flags.photos)
    if flags.serve == "compile":
        torch_side.compiled(networks, ("generator", "discriminator"))

    def run():
        for _ in range(flags.iterations):
            order = torch.randperm(flags.photos, device=photos.device)[:batch_size]
            with torch_side.autocast(flags.dtype):
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

    begin = time.perf_counter()
    run()
    in_turn.serve(run, {"compile_s": time.perf_counter() - begin})


def _photos(flags: argparse.Namespace, config) -> tuple[np.ndarray, np.ndarray]:
    """T random photos and rasters, uint8."""
    shape = (2, flags.photos, config.size, config.size, 3)
    photos, rasters = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return photos, rasters


def _config(flags: argparse.Namespace):
    config = load_config(flags.config)
    config.size = flags.size or config.size
    config.model.dtype = flags.dtype
    config.loss.pixel = 10.0
    config.perceptual.update(vgg19=0.0, vggface=0.0, face_id=0.0)
    return config


if __name__ == "__main__":
    main()
