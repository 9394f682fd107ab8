"""The paper's model on VoxCeleb1 at 256 px (21,819 videos to train on).

    flax-heads prepare --source /data/voxceleb1 --layout voxceleb1 --data-dir /data/vox1 \\
        --frames-per-video 80
    python -m flax_heads.train --config=configs/voxceleb1.py --workdir=runs/vox1 \\
        --config.data.path=/data/vox1

Wall time and scores: not measured. Arguments as in `voxceleb2.py`.
"""

from ml_collections import ConfigDict

from configs import variants, voxceleb2

_VIDEOS = 21_819


def get_config(arg: str | None = None) -> ConfigDict:
    return variants.build(arg, voxceleb2.sizes(_VIDEOS), default="full")
