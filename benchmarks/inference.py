"""Drawing frames of a talking head against plain PyTorch: `python -m benchmarks.inference`.

The generator alone, weights with their spectral norm folded in, rasters in and frames
out as bytes; ours in float32 and, where that keeps the picture, in bfloat16. With `--head`
and `--driving` also the whole of `flax-heads animate`: decoding, landmarks, drawing and
encoding.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import tempfile
import time

import numpy as np

from benchmarks import in_turn, report, torch_side


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    report.add_flags(parser)
    report.add_config_flags(parser)
    torch_side.add_flags(parser)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--batches", type=int, default=3, help="in each timed run")
    parser.add_argument("--head", help="folder of a talking head, with --driving")
    parser.add_argument("--driving", help="video that drives it, with --head")
    flags = parser.parse_args()
    if torch_side.serves(flags, serve_jax, serve_torch):
        return
    ours = {f"flax-heads {dtype}": dtype for dtype in ("float32", "bfloat16")}
    candidates = torch_side.candidates(flags, "benchmarks.inference", ours)
    peaks = {name: report.matmul_peak(dtype) for name, dtype in ours.items()}
    rows = in_turn.compare(candidates, flags.rounds)
    frames = flags.batches * flags.batch_size
    report.add_rates(rows, frames, "frames_per_s", peaks)
    about = {
        "config": flags.config,
        "size, batch": (report.config_of(flags).size, flags.batch_size),
        "matmul peaks, GFLOP/s": [round(peak / 1e9) for peak in peaks.values()],
        **report.machine(),
    }
    report.show("drawing frames", rows, about, flags.json)
    if flags.head and flags.driving:
        _show_animate(flags)


def serve_jax(flags: argparse.Namespace) -> None:
    import jax
    import jax.numpy as jnp

    from flax_heads import recipe, spectral
    from flax_heads.info import count_flops
    from flax_heads.talking_head import draw_frames

    config = report.config_of(flags)
    module = recipe.networks(config).generator.clone(dtype=jnp.dtype(flags.serve))
    rasters = _rasters(flags, config)

    @jax.jit
    def init(key):
        image = jnp.zeros((1, config.size, config.size, 3))
        psi = jax.random.normal(key, (1, module.psi_size))
        params = module.init(key, image, psi)["params"]
        vectors = spectral.init_vectors(params, key)
        weights = spectral.normalize(params, vectors), psi[0]
        return jax.tree.map(lambda x: x.astype(flags.serve), weights)

    params, psi = init(jax.random.key(0))
    start = time.perf_counter()
    draw = draw_frames.lower(module, params, psi, rasters).compile()
    seconds = time.perf_counter() - start

    def run():
        frames = None
        for _ in range(flags.batches):  # one in flight, as `TalkingHead.animate`
            following = draw(params, psi, rasters)
            if frames is not None:
                np.asarray(frames)
            frames = following
        np.asarray(frames)

    drawing = functools.partial(draw_frames, module)
    flops = (count_flops(drawing, params, psi, rasters) or 0) * flags.batches
    in_turn.serve(run, {"compile_s": seconds, "flops": flops})


def serve_torch(flags: argparse.Namespace) -> None:
    torch = torch_side.load_torch()
    config = report.config_of(flags)
    networks = torch_side.build(config)
    for layer in networks.generator.modules():
        if torch.nn.utils.parametrize.is_parametrized(layer, "weight"):
            torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")
    size = 2 * sum(networks.generator.style_channels)
    psi = torch.randn(size, device=torch_side.device()).expand(flags.batch_size, -1)
    rasters = _rasters(flags, config)
    if flags.serve == "compile":
        torch_side.compiled(networks, ("generator",))

    def run():
        for _ in range(flags.batches):
            with torch.inference_mode():
                images = torch_side.to_images(torch_side.to_device(rasters))
                frames = networks.generator(images, psi).movedim(-3, -1)
                frames = frames.add(1).mul(127.5).add(0.5).clamp(0, 255)
                frames.to(torch.uint8).cpu().numpy()

    in_turn.serve(run)


def _show_animate(flags: argparse.Namespace) -> None:
    from data_pipeline.tracking import track_video
    from flax_heads.animate import drive
    from flax_heads.talking_head import TalkingHead

    head = TalkingHead.load(flags.head)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        video, saved = pathlib.Path(folder, "out.mp4"), pathlib.Path(folder, "d.npz")
        track = track_video(flags.driving)
        track.save(saved)
        head.draw(np.zeros((8, head.size, head.size, 3), np.uint8))  # compiles
        whole = functools.partial(drive, head, flags.driving, video)
        parts = {
            "decode, track": lambda: track_video(flags.driving),
            "draw, encode (from a track)": lambda: drive(head, saved, video),
            "everything": whole,
        }
        for name, part in parts.items():
            seconds = []
            for _ in range(flags.rounds):
                start = time.perf_counter()
                part()
                seconds.append(time.perf_counter() - start)
            median = float(np.median(seconds))
            rate = len(track.landmarks) / median
            rows.append({"name": name, "seconds": median, "frames_per_s": rate})
    about = {"head": flags.head, "driving": flags.driving, "size": head.size}
    report.show("the whole of animate", rows, about)


def _rasters(flags: argparse.Namespace, config) -> np.ndarray:
    shape = (flags.batch_size, config.size, config.size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


if __name__ == "__main__":
    main()
