"""Rendered heads, no download: the recipe of tests and of ablations.

    python -m flax_heads.train --config=configs/synthetic.py --workdir=runs/synthetic

`:smoke` takes a few steps, and `:tiny` a few of networks of one block at 16 px: the
programs of tests and of the notebooks when tests run them, quick to compile.
Variants of `variants.py` follow the size: `:small,no_attention`.
"""

from ml_collections import ConfigDict

from configs import common, variants


def get_config(arg: str | None = None) -> ConfigDict:
    sizes = {"small": _small, "smoke": _smoke, "tiny": _tiny}
    return variants.build(arg, sizes, default="small")


def _small() -> ConfigDict:
    config = common.small(common.paper())
    config.data.update(kind="synthetic", num_videos=300, frames_per_video=16)
    config.num_train_steps = 2_000
    return config


def _smoke() -> ConfigDict:
    config = common.smoke(_small())
    config.data.update(num_videos=8, frames_per_video=4)
    return config


def _tiny() -> ConfigDict:
    config = _smoke()
    config.update(size=16, batch_size=8)
    config.model.embedder.update(channels=(16,), attention_after=None)
    config.model.discriminator.update(channels=(16,), attention_after=None)
    config.model.generator.update(
        channels=(16,), num_residual_blocks=0, up_attention_after=None
    )
    config.fine_tune.update(num_iterations=2, check_every=2, augmentations=8)
    return config
