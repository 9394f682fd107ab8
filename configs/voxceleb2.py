"""The paper's model on VoxCeleb2 at 256 px (145,569 videos, one epoch = one episode each).

    flax-heads prepare --source /data/voxceleb2 --layout voxceleb2 --data-dir /data/vox2 \\
        --frames-per-video 80
    python -m flax_heads.train --config=configs/voxceleb2.py --workdir=runs/vox2 \\
        --config.data.path=/data/vox2

Wall time and scores: not measured. As it stands the content loss is a pixel pyramid and
dlib's face network, which need no download. The paper's, with your files of VGG weights:

    --config=configs/voxceleb2.py:v2 --config.vgg19.path=vgg19-d01eb7cb.pth \\
        --config.vggface.path=vgg_face_dag.pth

Argument: a size, then variants of `variants.py`, joined by commas. `:small` is a 64 px
model for any prepared records, under an hour on two CPU cores; `:smoke` runs four steps of it.
"""

from ml_collections import ConfigDict

from configs import common, variants

_VIDEOS = 145_569


def get_config(arg: str | None = None) -> ConfigDict:
    return variants.build(arg, sizes(_VIDEOS), default="full")


def sizes(num_videos: int):
    """The sizes of a recipe for a corpus of so many videos."""

    def full() -> ConfigDict:
        config = common.paper()
        # Stand-ins for VGG19 and VGGFace.
        config.loss.pixel = 10.0
        config.perceptual.face_id = 1.0
        config.num_train_steps = 75 * num_videos // config.batch_size  # 75 epochs
        return config

    def small() -> ConfigDict:
        config = common.small(common.paper())
        config.num_train_steps = 6_000
        return config

    return {"full": full, "small": small, "smoke": lambda: common.smoke(small())}
