"""The model that comes with the package: rendered heads at 128 px, no download.

    FAST="--config.optimizer.generator_learning_rate=1e-3 \
        --config.optimizer.discriminator_learning_rate=4e-4"
    python -m flax_heads.train --config=configs/bundled.py --workdir=runs/coarse $FAST \
        --config.perceptual.face_id=0 --config.num_train_steps=4984
    python -m flax_heads.train --config=configs/bundled.py --workdir=runs/fine $FAST \
        --config.init_from=runs/coarse --config.num_train_steps=9794
    python -m flax_heads.train --config=configs/bundled.py --workdir=runs/bundled \
        --config.init_from=runs/fine
    flax-heads export --model runs/bundled --to file \
        --output flax_heads/bundled_model/weights.npz

`load_model()` reads that file; the model card beside it, `README.md`, says how long it
was trained and how it scores. `:smoke` takes a few steps.
"""

from ml_collections import ConfigDict

from configs import common, variants


def get_config(arg: str | None = None) -> ConfigDict:
    return variants.build(arg, {"full": _full, "smoke": _smoke}, default="full")


def _full() -> ConfigDict:
    config = common.small(common.paper())
    config.size = 128
    config.batch_size = 4
    config.num_support = 2
    # A thousand faces, each in another shape and other colours every time.
    config.data.update(kind="synthetic", num_videos=1_000, frames_per_video=12)
    config.data.identity_augmentation = 0.6
    widths = (16, 32, 64, 128, 160)
    config.model.embedder.update(channels=widths, attention_after=4)
    config.model.discriminator.update(channels=widths, attention_after=4)
    config.model.generator.update(
        channels=(16, 32, 64, 128), num_residual_blocks=4, up_attention_after=1
    )
    # The stand-in for VGGFace. From the start on it would cost a third of the steps.
    config.perceptual.face_id = 1.0
    config.optimizer.update(discriminator_updates=1, ema_decay=0.998)
    # Of the last of its three runs, a quarter of the others'.
    config.optimizer.generator_learning_rate = 2.5e-4
    config.optimizer.discriminator_learning_rate = 1e-4
    config.fine_tune.update(batch_size=4, generator_learning_rate=3e-3)
    config.num_train_steps = 2_700
    config.eval_every_steps = 1_000
    return config


def _smoke() -> ConfigDict:
    config = common.smoke(_full())
    config.data.update(num_videos=8, frames_per_video=4)
    return config
