"""The paper's two variants and every ablation, by name: the fields that each sets.

A recipe takes them after its size, joined by commas; `flax-heads sweep` runs several:

    --config=configs/voxceleb2.py:small,no_attention
"""

from collections.abc import Callable

from ml_collections import ConfigDict

VARIANTS = {
    # The paper's two models: with the match loss, and twice as long without it.
    "ft": {"loss.match": 10.0},
    "ff": {"loss.match": 0.0, "num_train_steps": lambda steps: 2 * steps},
    # The weights of the paper's first version, and those that its second is said to
    # use. Both need the files of VGG19 and VGGFace.
    "v1": {
        "perceptual.vgg19": 1e-2,
        "perceptual.vggface": 2e-3,
        "perceptual.face_id": 0.0,
        "loss.pixel": 0.0,
        "loss.adversarial": 1.0,
        "loss.feature_matching": 10.0,
        "loss.match": 80.0,
    },
    "v2": {
        "perceptual.vgg19": 1.5e-1,
        "perceptual.vggface": 2.5e-2,
        "perceptual.face_id": 0.0,
        "loss.pixel": 0.0,
        "loss.adversarial": 1.0,
        "loss.feature_matching": 10.0,
        "loss.match": 10.0,
    },
    # Losses.
    "no_feature_matching": {"loss.feature_matching": 0.0},
    "sum_feature_maps": {"loss.sum_feature_maps": True},
    # Fine-tuning (section 4 of the paper).
    "no_adversarial_fine_tuning": {"fine_tune.adversarial": False},
    "random_psi": {"fine_tune.random_psi": True},
    "random_w": {"fine_tune.random_w": True},
    # Support frames of an episode.
    "k1": {"num_support": 1},
    "k8": {"num_support": 8},
    "k32": {"num_support": 32},
    # Networks.
    "no_attention": {
        "model.embedder.attention_after": None,
        "model.generator.attention_after": None,
        "model.generator.up_attention_after": None,
        "model.discriminator.attention_after": None,
    },
    "sum_then_relu": {
        "model.embedder.relu_before_sum": False,
        "model.discriminator.relu_before_sum": False,
    },
    "relu_then_sum": {
        "model.embedder.relu_before_sum": True,
        "model.discriminator.relu_before_sum": True,
    },
}


_LOSS_WEIGHTS = ("v1", "v2")


def build(
    arg: str | None, sizes: dict[str, Callable[[], ConfigDict]], default: str
) -> ConfigDict:
    """A recipe's config from its argument, `[SIZE][,VARIANT ...]`.

    Args:
      arg: what stands after the file's name and its colon.
      sizes: the recipe's own arguments and what makes their configs.
      default: the size meant where none is named.

    The order of variants does not matter: a set of loss weights comes first, and others
    may leave terms of it out.

    Raises:
      ValueError: a name that is neither a size nor a variant, one that comes twice, or
        variants that set the same field to different values.
    """
    names = arg.split(",") if arg else []
    size = names.pop(0) if names and names[0] in sizes else default
    config = sizes[size]()
    set_by: dict[str, str] = {}
    for name in sorted(names, key=lambda name: name not in _LOSS_WEIGHTS):
        if name not in VARIANTS:
            raise ValueError(
                f"{name!r}: expected a size first ({', '.join(sizes)}), then variants "
                f"({', '.join(VARIANTS)}), joined by commas"
            )
        if names.count(name) > 1:
            raise ValueError(f"{name!r} is there twice")
        fields = {
            field: value(_at(config, field)) if callable(value) else value
            for field, value in VARIANTS[name].items()
        }
        for field, value in fields.items():
            other = set_by.setdefault(field, name)
            left_out = other in _LOSS_WEIGHTS and value == 0
            if other != name and value != _at(config, field) and not left_out:
                raise ValueError(f"{other} and {name} both set {field}: choose one")
        config.update_from_flattened_dict(fields)
    return config


def _at(config, field):
    for part in field.split("."):
        config = config[part]
    return config
