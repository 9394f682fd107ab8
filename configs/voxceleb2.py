"""The paper's model on VoxCeleb2 at 256 px (145,569 videos, one epoch = one episode each).

    flax-heads prepare --source /data/voxceleb2 --layout voxceleb2 --data-dir /data/vox2
    python -m flax_heads.train --config=configs/voxceleb2.py --workdir=runs/vox2 \\
        --config.data.path=/data/vox2

Wall time and scores: not measured. Without VGG weights the content loss is a pixel
pyramid and dlib's face network; the paper's needs VGG19 and VGGFace.

Arguments: `:small` is a 64 px model for any prepared records, minutes on two CPU
cores; `:smoke` runs four steps of it.
"""

from ml_collections import ConfigDict

from configs import common

_VIDEOS = 145_569


def get_config(arg: str | None = None) -> ConfigDict:
    config = common.paper()
    # Stand-ins for VGG19 and VGGFace.
    config.loss.pixel = 10.0
    config.perceptual.face_id = 1.0
    config.num_train_steps = 75 * _VIDEOS // config.batch_size  # 75 epochs, FT variant
    if arg in ("small", "smoke"):
        config = common.small(config)
        config.perceptual.face_id = 0.0
        config.num_train_steps = 6_000
    if arg == "smoke":
        config.update(num_train_steps=4, log_every_steps=2)
        config.update(eval_every_steps=4, checkpoint_every_steps=2)
    elif arg not in (None, "small"):
        raise ValueError(f"voxceleb2.py:{arg}: expected 'small' or 'smoke'")
    return config
