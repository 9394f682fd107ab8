"""What each lever saves of a step's workspace: `python -m benchmarks.memory`.

Only compiles. The figures are of the backend at hand: on a GPU they are what training
will need besides the state; the CPU computes bfloat16 convolutions another way,
and shows nothing of what that type saves elsewhere.
"""

from __future__ import annotations

import argparse
import functools

import jax

from benchmarks import report
from flax_heads import parallel, recipe

_LEVERS = {
    "as it is": {},
    "model.dtype=bfloat16": {"dtype": "bfloat16"},
    "model.remat=True": {"remat": True},
    "accumulate=4": {"accumulate": 4},
    "accumulate=4, model.remat=True": {"accumulate": 4, "remat": True},
    "all three": {"accumulate": 4, "remat": True, "dtype": "bfloat16"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    report.add_flags(parser)
    report.add_config_flags(parser)
    parser.add_argument("--batch-size", type=int, default=4, help="of one device")
    parser.add_argument("--num-support", type=int, default=8)
    flags = parser.parse_args()
    rows = []
    for name, lever in _LEVERS.items():
        config = report.config_of(flags)
        config.update(batch_size=flags.batch_size, num_support=flags.num_support)
        config.accumulate = lever.get("accumulate", 1)
        config.model.update({k: v for k, v in lever.items() if k != "accumulate"})
        state = jax.eval_shape(functools.partial(recipe.new_state, config, 128))
        batch = parallel.abstract_batch(
            config.batch_size, config.num_support, config.size
        )
        step = jax.jit(recipe.meta_step(config), donate_argnums=0)
        analysis = step.lower(state, batch).compile().memory_analysis()
        workspace = analysis.temp_size_in_bytes / 2**20
        rows.append({"lever": name, "workspace_mib": workspace})
        rows[-1]["share"] = workspace / rows[0]["workspace_mib"]
    about = {
        "config": flags.config,
        "size, batch, K": (config.size, flags.batch_size, flags.num_support),
        "state, MiB": analysis.argument_size_in_bytes / 2**20,
        **report.machine(),
    }
    report.show("workspace of a meta-training step", rows, about, flags.json)


if __name__ == "__main__":
    main()
