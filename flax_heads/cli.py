"""`flax-heads <command>`: preparing, training, fine-tuning, driving, judging.

Exit code 0 only if the thing asked for exists; 2 after one line that names what was
wrong with the input and what to do about it.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import re
import signal
import sys

from data_pipeline.errors import InputError
from flax_heads import commands

_LARGEST_SEED = 2**32 - 1


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    argv = [_at_home(a) for a in (sys.argv[1:] if argv is None else argv)]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if isinstance(sys.stdout, io.TextIOWrapper):  # it may not know all of Unicode
        sys.stdout.reconfigure(errors="replace")
    try:
        if argv[:1] == ["train"]:  # its flags are absl's and config_flags'
            from flax_heads import train

            return train.run(["flax-heads train", *argv[1:]])
        arguments, rest = _parser().parse_known_args(argv)
        if argv[0] in ("sweep", "info", "import"):  # whose --config has fields
            arguments.config_fields = [a for a in rest if a.startswith("--config.")]
            rest = [a for a in rest if not a.startswith("--config.")]
        if rest:
            _parser().error(f"unrecognized arguments: {' '.join(rest)}")
        return arguments.run(arguments) or 0
    except InputError as error:
        print(f"flax-heads: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # of `| head`: nobody listens any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:  # a folder without rights, a full disk
        if error.strerror is None:
            raise
        where = error.filename or "an output"
        print(
            f"flax-heads: {where}: {error.strerror}; check the name, its rights and the "
            "free space",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("flax-heads: interrupted", file=sys.stderr)
        return 130


def _at_home(argument: str) -> str:
    """Shells leave the ~ of `--workdir=~/runs` as it is."""
    flag, path = re.fullmatch(r"(--[\w.-]+=)?(.*)", argument, re.DOTALL).groups("")
    return flag + os.path.expanduser(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="flax-heads", description=__doc__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, run, text):
        sub = subparsers.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    p = command(
        "prepare", commands.prepare, "Videos to records: landmarks, crops, rasters."
    )
    p.add_argument("--source", required=True, help="root folder of the corpus")
    layouts = ("voxceleb2", "voxceleb1", "folder")
    p.add_argument("--layout", required=True, choices=layouts)
    p.add_argument("--data-dir", required=True, help="where the records go")
    p.add_argument("--size", type=_at_least(16), default=256, help="side in pixels")
    p.add_argument("--frames-per-video", type=_at_least(0), default=64, help="0 = all")
    p.add_argument(
        "--workers", type=_at_least(0), help="processes; default: one per core"
    )
    p.add_argument("--test-fraction", type=float, default=0.1, help="of the people")
    p.add_argument(
        "--test-identities", nargs="+", default=[], help="instead of the fraction"
    )
    p.add_argument(
        "--share",
        metavar="I/N",
        help="only every N-th video from the I-th on, for N machines at once; packs "
        "nothing",
    )
    p.add_argument("--runner", help="prepare on this Beam runner's workers")
    p.add_argument(
        "--beam-options",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="of the runner, e.g. flink_master=host:8081",
    )
    _add_limits(p)

    p = command("check", commands.check, "Verifies prepared data; prints statistics.")
    p.add_argument("data_dir", help="as given to prepare")
    p.add_argument(
        "--pictures-per-video", type=_at_least(0), default=8, help="to decode; 0 = all"
    )
    p.add_argument(
        "--compare-people",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="look for people who are in two splits",
    )

    command("train", None, "Meta-training: --config=FILE.py --workdir=DIR; resumes.")

    p = command("info", commands.info, "What a config is: parameters, FLOPs, memory.")
    p.add_argument(
        "--config",
        required=True,
        help="e.g. configs/voxceleb2.py; its fields by --config.FIELD=VALUE, as in train",
    )
    p.add_argument(
        "--num-videos", type=_at_least(1), help="M; default: the data's, if there"
    )

    p = command(
        "track", commands.track, "A clip's landmarks to a track that can drive."
    )
    p.add_argument("--driving", "-d", required=True)
    p.add_argument("--output", "-o", required=True, help=".npz")
    _add_limits(p)

    p = command(
        "finetune", commands.finetune, "A few photos of a person to a talking head."
    )
    _add_model(p)
    photos = p.add_mutually_exclusive_group(required=True)
    photos.add_argument("--photos", "--source", "-s", nargs="+", help="of one person")
    photos.add_argument(
        "--photos-from", metavar="DIR", help="of many: a folder or a file for each"
    )
    p.add_argument("--output", "-o", required=True, help="folder of the head, or heads")
    p.add_argument(
        "--frames-per-clip", type=_at_least(1), default=8, help="T from each clip"
    )
    p.add_argument(
        "--workers", type=_at_least(0), default=1, help="that read a folder's photos"
    )
    _add_limits(p)
    p.add_argument(
        "--iterations",
        type=_at_least(0),
        help="exactly so many, in place of the recipe's rule; 0 = feed-forward, no "
        "training",
    )
    p.add_argument("--seed", type=_at_least(0, _LARGEST_SEED), default=0)
    _add_dtype(p, "of fine-tuning and of the head's drawing, instead of the model's")
    p.add_argument(
        "--distributed",
        metavar="HOW",
        help="with --photos-from: one of several processes that share the people; "
        "auto (SLURM, Open MPI, TPU pod) or HOST:PORT,RANK/COUNT",
    )

    p = command(
        "animate", commands.animate, "A talking head driven by a clip or a track."
    )
    p.add_argument("--head", required=True)
    p.add_argument("--driving", "-d", required=True, help="video, or .npz track")
    p.add_argument("--output", "-o", required=True, help=".mp4, .gif or .webp")
    p.add_argument("--side-by-side", action="store_true")
    _add_dtype(p)
    _add_limits(p)
    _add_transfer(p, "relative")
    _add_corrections(p, "frames are ")

    p = command("export", commands.export, "A model or a head for other frameworks.")
    p.add_argument("--to", required=True, choices=("torch", "file", "stablehlo"))
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--model",
        help="workdir; to torch: its networks' weights; to a file: the same in half "
        "precision, for --model",
    )
    what.add_argument(
        "--head", help="folder; to stablehlo: its drawing, self-contained"
    )
    p.add_argument(
        "--output", "-o", required=True, help=".safetensors, .npz or .stablehlo"
    )
    _add_dtype(p)

    p = command("import", commands.import_weights, "Weights from PyTorch to a workdir.")
    p.add_argument("--weights", required=True, help=".safetensors, .pth or .pt")
    p.add_argument(
        "--config",
        required=True,
        help="of the networks; its fields by --config.FIELD=VALUE",
    )
    p.add_argument("--output", "-o", required=True, help="a new workdir")

    p = command("evaluate", commands.evaluate, "Scores on people the model never saw.")
    _add_model(p)
    p.add_argument("--output", "-o", required=True, help="folder of the report")
    _add_evaluation_flags(p)
    p.add_argument("--ff-model", help="workdir of a run of the FF variant")
    p.add_argument(
        "--fine-tune",
        nargs="+",
        default=[],
        metavar="FIELD=VALUE",
        help="instead of the config's fine_tune fields, e.g. num_iterations=80",
    )

    p = command(
        "sweep", commands.sweep, "Variants of a recipe: trained, evaluated, compared."
    )
    p.add_argument("--config", required=True, help="e.g. configs/voxceleb2.py:small")
    p.add_argument(
        "--sweep",
        required=True,
        nargs="+",
        metavar="VARIANT",
        help="'base', names of configs/variants.py, or field=value; commas combine",
    )
    p.add_argument("--workdir", required=True, help="gets a folder for each variant")
    p.add_argument(
        "--print-commands", action="store_true", help="for a cluster; runs nothing"
    )
    _add_evaluation_flags(p)

    p = command("demo", commands.demo, "A portrait brought to life, in minutes.")
    p.add_argument("--output", "-o", default="demo_output")
    p.add_argument(
        "--photo", nargs="+", default=[], help="default: scikit-image's portrait"
    )
    p.add_argument(
        "--driving", "-d", nargs="+", default=[], help="clips; default: rendered heads"
    )
    _add_model(p)
    return parser


def _at_least(least: int, most: float = math.inf):
    def whole_number(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"{value} is less than {least}")
        if value > most:
            raise argparse.ArgumentTypeError(f"{value} is more than {most}")
        return value

    return whole_number


def _add_model(p) -> None:
    p.add_argument(
        "--model",
        help="workdir of a training run (its newest checkpoint; DIR@5000, DIR@best: "
        "another), or an exported file; default: the model that comes with the package",
    )


def _add_dtype(p, what="of a head's drawing, instead of its own") -> None:
    p.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help=f"{what}; bfloat16 is faster on GPUs and on CPUs with units for it",
    )


def _add_transfer(p, default, when=""):
    p.add_argument(
        "--transfer",
        choices=("relative", "absolute", "none"),  # animate.TRANSFERS, without JAX
        default=default,
        help=f"{when}what of the driver moves the person: relative, the changes of pose "
        "and expression, from a photo on; absolute, both as they are; none, its "
        f"landmarks, face shape and all, as in the paper; default: {default}",
    )


def _add_corrections(p, which):
    p.add_argument(
        "--corrections",
        type=_at_least(0),
        default=0,
        metavar="ROUNDS",
        help=f"{which}drawn again, so often, where dlib finds that the face fell short of "
        "its landmarks, as mouths do that open too little; 2 brings most of it; needs "
        "dlib; default: 0",
    )


def _add_limits(p) -> None:
    p.add_argument(
        "--limit",
        nargs="+",
        default=[],
        metavar="NAME=NUMBER",
        help="of the media, e.g. max_seconds=600; see data_pipeline/images.py",
    )


def _add_evaluation_flags(p) -> None:
    p.add_argument(
        "--mode",
        choices=("self", "cross"),
        default="self",
        help="who drives a person: other frames of theirs, or another person, which "
        "needs rendered people",
    )
    _add_transfer(p, "absolute", "in cross mode, ")
    _add_corrections(p, "also shown: frames of the fine-tuned heads ")
    p.add_argument(
        "--data-dir",
        help="prepared data, or 'synthetic': people rendered for this; default: the "
        "model's own",
    )
    p.add_argument(
        "--shots", type=_at_least(1), nargs="+", default=[1, 8, 32], help="T"
    )
    p.add_argument("--variants", nargs="+", choices=("ff", "ft"), default=["ff", "ft"])
    p.add_argument("--videos", type=_at_least(1), default=50, help="at most so many")
    p.add_argument(
        "--frames", type=_at_least(1), default=32, help="hold-out frames a video"
    )
    p.add_argument("--seed", type=_at_least(0, _LARGEST_SEED), default=0)
    p.add_argument("--arcface", metavar="ONNX", help="file of a face recogniser")
    p.add_argument("--inception", metavar="FILE", help="pytorch-fid's weights, for FID")
    p.add_argument(
        "--lpips", nargs=2, metavar=("ALEXNET", "LINEAR"), help="files of weights"
    )


if __name__ == "__main__":
    sys.exit(main())
