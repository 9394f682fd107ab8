"""Many devices: the same numbers on simulated ones, and what a cluster would cost.

    python -m benchmarks.scaling

Simulated devices share this machine's cores, so their times say nothing; that their
losses agree does. The plan below them is arithmetic: bytes that a step sends over the
link's bandwidth, against the step's FLOPs over what a device achieves. Nothing in it
was measured, and its assumptions are flags.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys

from benchmarks import report

_SIMULATE = "--xla_force_host_platform_device_count={}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    report.add_flags(parser)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--plan-config", default="configs/voxceleb2.py")
    parser.add_argument("--per-device-batch", type=int, default=8)
    parser.add_argument(
        "--tflops",
        type=float,
        help="that a device achieves; by default 400 in bfloat16, 200 in float32 (two "
        "fifths of what an H100 is rated at)",
    )
    parser.add_argument("--node", type=int, default=8, help="devices in a node")
    parser.add_argument(
        "--gb-per-s",
        type=float,
        nargs=2,
        default=(300.0, 40.0),
        metavar=("INSIDE", "BETWEEN"),
        help="bandwidth of a device's links; assumed",
    )
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.serve:
        _train(flags.steps)
        return
    rows = _simulated(flags)
    about = {"steps": flags.steps, "batch": _BATCH, **report.machine()}
    report.show("the same training on simulated devices", rows, about, flags.json)
    _show_plan(flags)


_BATCH = 8


def _simulated(flags: argparse.Namespace) -> list[dict]:
    rows, reference = [], None
    for count in flags.devices:
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": _SIMULATE.format(count),
        }
        command = [sys.executable, "-m", "benchmarks.scaling", "--serve"]
        command.append(f"--steps={flags.steps}")
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        losses = json.loads(done.stdout.splitlines()[-1])
        reference = reference or losses
        difference = max(abs(a - b) / abs(a) for a, b in zip(reference, losses))
        rows.append(
            {
                "devices": count,
                "last_loss": losses[-1],
                "largest_relative_difference": difference,
            }
        )
    return rows


def _train(steps: int) -> None:
    """Prints the losses of a few steps of a small model over all local devices."""
    import jax
    import numpy as np

    from benchmarks.step import make_batch
    from flax_heads import config_file, parallel, recipe

    config = config_file.load("configs/synthetic.py:small")
    config.update(size=32, batch_size=_BATCH)
    mesh = parallel.make_mesh()
    state = parallel.jit_init(functools.partial(recipe.new_state, config, 128), mesh)
    batch = next(parallel.place_batches(iter([make_batch(config)]), mesh))
    step = parallel.compile_step(recipe.meta_step(config), mesh, state, batch)
    losses = []
    for _ in range(steps):
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
        losses.append(float(np.asarray(metrics["loss/content"])))
    print(json.dumps(losses))


def _show_plan(flags: argparse.Namespace) -> None:
    import jax

    from flax_heads import config_file, parallel, recipe
    from flax_heads.info import count_parameters, count_step_flops

    config = config_file.load(flags.plan_config)
    config.perceptual.update(vgg19=0.0, vggface=0.0, face_id=0.0)
    config.batch_size = 1
    state = jax.eval_shape(functools.partial(recipe.new_state, config, 128))
    batch = parallel.abstract_batch(1, config.num_support, config.size)
    flops = count_step_flops(config, state, batch)
    if not flops:
        raise SystemExit("the plan needs JAX's CPU backend to count FLOPs")
    flops *= flags.per_device_batch
    tflops = flags.tflops or (400.0 if config.model.dtype == "bfloat16" else 200.0)
    compute = flops / (tflops * 1e12)
    # Gradients of E, G and P once, of V for each of its updates; float32.
    updates = config.optimizer.discriminator_updates
    parameters = count_parameters(state.generator.params)
    parameters += updates * count_parameters(state.discriminator.params)
    width = config.model.embedder.channels[-1]
    rows = []
    for count in (1, 8, 64, 512):
        batch_size = count * flags.per_device_batch
        # A ring all-reduce sends each byte nearly twice; W's rows and their gradients
        # are gathered from all devices.
        dense = 2 * (count - 1) / count * 4 * parameters
        rows_of_w = (2 * updates + 1) * 4 * width * batch_size * (count > 1)
        speed = flags.gb_per_s[count > flags.node] * 1e9
        send = (dense + rows_of_w) / speed
        rows.append(
            {
                "devices": count,
                "batch": batch_size,
                "compute_ms": 1e3 * compute,
                "gradients_mb": dense / 1e6,
                "rows_of_w_mb": rows_of_w / 1e6,
                "send_ms": 1e3 * send,
                "efficiency_without_overlap": compute / (compute + send),
                "efficiency_with_overlap": compute / max(compute, send),
                "days_for_75_epochs_voxceleb2": 75
                * 145_569
                / batch_size
                * (compute + send)
                / 86_400,
            }
        )
    about = {
        "config": flags.plan_config,
        "FLOPs of a device's step, T": flops / 1e12,
        "not in them": "the perceptual networks (VGG19 and VGGFace of an episode: 0.26)",
        "assumed TFLOP/s": f"{tflops:g} (config.model.dtype={config.model.dtype})",
        "assumed GB/s inside, between nodes": flags.gb_per_s,
    }
    report.show("what a cluster would cost (not measured)", rows, about)


if __name__ == "__main__":
    main()
