"""Rendered heads, no download: the recipe of `make demo`, of tests and of ablations.

    python -m flax_heads.train --config=configs/synthetic.py --workdir=runs/synthetic

`:demo` is what `make demo` trains, minutes on two CPU cores; `:smoke` takes a few steps.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    config = common.small(common.paper())
    config.data.update(kind="synthetic", num_videos=300, frames_per_video=16)
    config.num_train_steps = 2_000
    if arg == "smoke":
        config.data.update(num_videos=8, frames_per_video=4)
        config.num_train_steps = 4
        config.update(log_every_steps=2, eval_every_steps=4, checkpoint_every_steps=2)
    elif arg == "demo":
        config.num_train_steps = 700
        config.fine_tune.num_iterations = 300
    elif arg:
        raise ValueError(f"synthetic.py:{arg}: expected 'demo' or 'smoke'")
    return config
