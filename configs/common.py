"""Fields and defaults that every recipe shares: the paper's networks and optimisation.

Numbers come from the paper (Zakharov et al. 2019) where it gives them.
"""

from ml_collections import ConfigDict


def paper() -> ConfigDict:
    """The full-size model of the paper at 256 px."""
    deep = (64, 128, 256, 512, 512, 512)
    return ConfigDict(
        {
            "seed": 0,
            "size": 256,  # side of frames and rasters, pixels
            "batch_size": 16,  # global; the original's is unknown
            "num_support": 8,  # K
            "accumulate": 1,  # parts of a batch that follow each other: memory
            "data": {
                "kind": "records",  # "records", "archive" or "synthetic"
                "path": "",  # of records or of an archive
                "held_out": 0.1,  # share of an archive's people kept aside
                "num_videos": 0,  # synthetic only
                "frames_per_video": 0,  # synthetic only
                "max_damaged": 0.01,  # share of the records that may be replaced
                # Strength, up to 1, with which every episode is made one of somebody
                # else: another face shape, other colours. 0: the paper.
                "identity_augmentation": 0.0,
            },
            "raster": {"line_width": 2.0, "inner_lips": True, "version": 1},
            "model": {
                "dtype": "float32",  # compute type; parameters are always float32
                "remat": False,  # blocks are computed again for the gradient: memory
                "embedder": {
                    "channels": deep,
                    "attention_after": 3,
                    "relu_before_sum": False,
                    "rectified_skip": False,
                },
                "generator": {
                    "channels": (64, 128, 256, 512),
                    "num_residual_blocks": 4,
                    "attention_after": 3,
                    "up_attention_after": 2,
                    "rectified_skip": False,
                },
                "discriminator": {
                    "channels": deep,
                    "attention_after": 3,
                    "relu_before_sum": False,
                    "rectified_skip": False,
                },
            },
            "loss": {
                "pixel": 0.0,
                "adversarial": 1.0,  # of -r-hat; L_ADV is it and L_FM
                "feature_matching": 10.0,
                "match": 10.0,
                "sum_feature_maps": False,
            },
            # Weight of each perceptual network in the content loss; 0 leaves it out.
            "perceptual": {"vgg19": 0.0, "vggface": 0.0, "face_id": 0.0},
            # The user's files of VGG weights, and what they were trained on where the
            # name does not say it (README, "VGG weights").
            "vgg19": {"path": "", "source": "auto"},
            "vggface": {"path": "", "source": "auto"},
            "optimizer": {
                "generator_learning_rate": 5e-5,
                "discriminator_learning_rate": 2e-4,
                "generator_b1": 0.0,  # the discriminator's is 0, on which W relies
                "b2": 0.999,
                "eps": 1e-5,
                "discriminator_updates": 2,
                "ema_decay": 0.999,
            },
            "num_train_steps": 0,
            "log_every_steps": 100,
            "checkpoint_every_steps": 5_000,
            "eval_every_steps": 5_000,
            "keep_checkpoints": 2,  # the last ones; the best one is kept besides
            "max_non_finite_steps": 20,  # skipped in a row before the run stops
            # Longer than any one step, held-out check or save takes; 0: wait for ever.
            "stall_timeout_seconds": 600.0,
            "resume": "",  # workdir whose whole state to continue, if ours has none
            "init_from": "",  # whose networks to start from: a workdir, file or "bundled"
            "fine_tune": {
                "generator_learning_rate": 5e-5,
                "discriminator_learning_rate": 2e-4,
                # Optimiser updates at most, whatever T is. The paper's 40 epochs in batches
                # of 8 are as many for T = 1 and 8, and 160 for T = 32.
                "num_iterations": 40,
                # Iterations between checks on pictures that are not trained on; the
                # best one's head is taken. 0, the paper's recipe: no checks, exactly
                # `num_iterations`.
                "check_every": 0,
                "patience": 3,  # checks without improvement that end it
                "batch_size": 8,
                "ema_decay": 0.972,
                "adversarial": True,  # L'_ADV; without it the discriminator rests
                "random_psi": False,  # psi' from noise instead of P e
                "random_w": False,  # w' as W begins instead of w0 + e
                # Warped copies of the photos to train on as well; the paper's has none.
                "augmentations": 0,
            },
        }
    )


def small(config: ConfigDict) -> ConfigDict:
    """Shrinks a recipe to 64 px and 3.2 M parameters: minutes on two CPU cores."""
    config.size = 64
    config.batch_size = 8
    config.num_support = 2
    widths = (24, 48, 96, 128)
    config.model.embedder.update(channels=widths, attention_after=3)
    config.model.discriminator.update(channels=widths, attention_after=3)
    config.model.generator.update(
        channels=(32, 64, 128),
        num_residual_blocks=3,
        attention_after=None,
        up_attention_after=1,
    )
    # No match loss (the paper's FF variant): W starts small and would hold the
    # embedding down, until psi is little more than P's bias, the same for everybody.
    config.loss.update(pixel=10.0, adversarial=0.1, match=0.0)
    config.optimizer.update(
        generator_learning_rate=1e-3,
        generator_b1=0.9,
        discriminator_learning_rate=4e-4,
        ema_decay=0.995,
    )
    config.fine_tune.update(
        generator_learning_rate=1e-3,
        discriminator_learning_rate=1e-3,
        num_iterations=400,
        check_every=25,
        augmentations=96,
    )
    config.log_every_steps = 50
    config.checkpoint_every_steps = 500
    config.eval_every_steps = 500
    return config


def smoke(config: ConfigDict) -> ConfigDict:
    """Four steps of a recipe, to see that everything runs."""
    config.update(num_train_steps=4, log_every_steps=2)
    config.update(eval_every_steps=4, checkpoint_every_steps=2)
    return config
