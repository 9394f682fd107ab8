"""What each command of `cli.py` does with its arguments.

Libraries are imported where they are used: `flax-heads --help` needs none of them.
"""

from __future__ import annotations

import itertools
import pathlib

from data_pipeline.errors import InputError


def prepare(arguments) -> None:
    from data_pipeline.images import Limits
    from data_pipeline.prepare import prepare

    prepare(
        arguments.source,
        arguments.layout,
        arguments.data_dir,
        size=arguments.size,
        frames_per_video=arguments.frames_per_video,
        workers=arguments.workers,
        runner=arguments.runner,
        beam_options=[f"--{option}" for option in arguments.beam_options],
        share=_share(arguments.share),
        test_fraction=arguments.test_fraction,
        test_identities=arguments.test_identities,
        limits=Limits.parse(arguments.limit),
    )


def _share(text: str | None) -> tuple[int, int] | None:
    """The numbers of "I/N"."""
    if text is None:
        return None
    i, _, n = text.partition("/")
    if not (i.isdecimal() and n.isdecimal() and int(i) < int(n)):
        raise InputError(
            f"--share {text}: expected I/N with I from 0 to N - 1, such as 0/4",
            "arguments",
        )
    return int(i), int(n)


def check(arguments) -> int:
    from flax_heads.check import run_check

    return run_check(
        arguments.data_dir, arguments.pictures_per_video, arguments.compare_people
    )


def info(arguments) -> None:
    from flax_heads import config_file, info

    config = config_file.load(arguments.config, arguments.config_fields)
    print(info.describe(config, arguments.num_videos))


def track(arguments) -> None:
    from data_pipeline.images import Limits
    from data_pipeline.tracking import track_video
    from flax_heads.console import progress

    output = pathlib.Path(arguments.output)
    if output.suffix.lower() != ".npz" or not output.parent.is_dir():
        raise InputError(
            f"{output}: write to an .npz in a folder that exists", "output"
        )
    with progress("landmarks", None) as show:
        seen = iter(range(1, 1 << 62))
        track = track_video(
            arguments.driving,
            Limits.parse(arguments.limit),
            on_frame=lambda *_: show(next(seen)),
        )
    track.save(arguments.output)
    print(f"{arguments.output}: {track.found.sum()} of {len(track.found)} frames")
    if track.problem:
        print(f"{track.problem}; the track ends there")


def finetune(arguments) -> None:
    from data_pipeline.images import Limits
    from data_pipeline.people import load_person
    from flax_heads.console import progress, set_up
    from flax_heads.early_stopping import describe
    from flax_heads.meta_model import fine_tune, load_model
    from flax_heads.talking_head import check_output

    if arguments.photos:
        check_output(arguments.output)
    set_up(arguments.distributed, independent=True)
    model = load_model(arguments.model)
    if arguments.dtype:
        model = model.with_dtype(arguments.dtype)
    limits = Limits.parse(arguments.limit)
    if arguments.photos_from:
        _finetune_folder(arguments, model, limits)
        return
    person = load_person(
        arguments.photos, model.size, arguments.frames_per_clip, limits
    )
    at_most = model.rule(arguments.iterations).num_iterations
    with progress("fine-tuning", at_most) as show:
        head = fine_tune(
            model,
            person.photos,
            person.landmarks,
            num_iterations=arguments.iterations,
            seed=arguments.seed,
            on_progress=lambda done, _: show(done),
        )
    head.save(arguments.output)
    print(describe(head.history))
    print(f"{arguments.output}: a talking head from {len(person.photos)} picture(s)")


def _finetune_folder(arguments, model, limits) -> None:
    from flax_heads.folder_of_people import fine_tune_folder

    result = fine_tune_folder(
        model,
        arguments.photos_from,
        arguments.output,
        frames_per_clip=arguments.frames_per_clip,
        num_iterations=arguments.iterations,
        seed=arguments.seed,
        num_workers=arguments.workers,
        limits=limits,
        on_person=lambda name, what: print(f"{name}: {what}", flush=True),
    )
    for problem in itertools.chain.from_iterable(result.left_out.values()):
        print(f"left out: {problem}")
    print(
        f"{arguments.output}: {len(result.made)} talking heads made, {len(result.kept)} "
        f"there before, {len(result.skipped)} people skipped"
    )
    if result.skipped:
        raise InputError(
            f"{len(result.skipped)} people have no talking head (named above)",
            reason="skipped",
        )


def animate(arguments) -> None:
    from data_pipeline.images import Limits
    from flax_heads.animate import drive, sheet_beside
    from flax_heads.console import set_up, staged_progress
    from flax_heads.talking_head import TalkingHead

    set_up()
    head = TalkingHead.load(arguments.head)
    if arguments.dtype:
        head = head.with_dtype(arguments.dtype)
    with staged_progress() as show:
        counts = drive(
            head,
            arguments.driving,
            arguments.output,
            transfer=arguments.transfer,
            corrections=arguments.corrections,
            side_by_side=arguments.side_by_side,
            limits=Limits.parse(arguments.limit),
            on_progress=show,
        )
    print(
        f"{arguments.output}: {counts['frames']} frames ({counts['without_face']} "
        f"interpolated, no face there); see {sheet_beside(arguments.output)}"
    )


def export(arguments) -> None:
    from flax_heads.console import set_up

    set_up()
    if arguments.dtype and arguments.to != "stablehlo":
        raise InputError(
            "--dtype is of a head's drawing (--to stablehlo); weights are written in the "
            "precision of their file",
            reason="usage",
        )
    if arguments.to == "torch" and arguments.model:
        from flax_heads.torch_weights import export_torch

        export_torch(arguments.model, arguments.output)
    elif arguments.to == "file" and arguments.model:
        from flax_heads import model_file

        model_file.write(arguments.output, *model_file.load_networks(arguments.model))
    elif arguments.to == "stablehlo" and arguments.head:
        from flax_heads.export import export_stablehlo
        from flax_heads.talking_head import TalkingHead

        head = TalkingHead.load(arguments.head)
        if arguments.dtype:
            head = head.with_dtype(arguments.dtype)
        export_stablehlo(head, arguments.output)
    else:
        raise InputError(
            "export takes --model to torch or to a file, or --head to stablehlo",
            reason="usage",
        )
    print(arguments.output)


def import_weights(arguments) -> None:
    from flax_heads import config_file
    from flax_heads.console import set_up
    from flax_heads.torch_weights import import_torch

    set_up()
    config = config_file.load(arguments.config, arguments.config_fields)
    import_torch(arguments.weights, config, arguments.output)
    print(f"{arguments.output}: a workdir with these weights, at step 0")


def evaluate(arguments) -> None:
    from flax_heads.console import set_up
    from flax_heads.evaluate import evaluate_held_out
    from flax_heads.scores import make_judges

    set_up()
    evaluate_held_out(
        arguments.model,
        arguments.output,
        mode=arguments.mode,
        transfer=arguments.transfer,
        data_dir=arguments.data_dir,
        shots=arguments.shots,
        variants=arguments.variants,
        ff_model=arguments.ff_model,
        num_videos=arguments.videos,
        num_frames=arguments.frames,
        fine_tune_fields=arguments.fine_tune,
        corrections=arguments.corrections,
        judges=make_judges(arguments.arcface, arguments.inception, arguments.lpips),
        seed=arguments.seed,
    )
    report = pathlib.Path(arguments.output, "report.md")
    print(
        f"{report.read_text(encoding='utf-8')}\nsee {report} and the pictures beside it"
    )


def sweep(arguments) -> int:
    from flax_heads import sweep
    from flax_heads.console import set_up

    set_up()
    flags = [f"--videos={arguments.videos}", f"--frames={arguments.frames}"]
    flags += [f"--seed={arguments.seed}", f"--mode={arguments.mode}"]
    flags += [f"--transfer={arguments.transfer}"]
    flags += [f"--corrections={arguments.corrections}"]
    flags += ["--variants", *arguments.variants]
    flags += ["--shots", *map(str, arguments.shots)]
    for name in ("data_dir", "arcface", "inception"):
        if value := getattr(arguments, name):
            flags.append(f"--{name.replace('_', '-')}={value}")
    if arguments.lpips:
        flags += ["--lpips", *arguments.lpips]
    runs = sweep.plan(
        arguments.config,
        arguments.sweep,
        arguments.workdir,
        arguments.config_fields,
        flags,
    )
    if arguments.print_commands:
        print("\n".join(sweep.jobs(runs)))
        return 0
    code = sweep.run(runs, arguments.workdir)
    print(pathlib.Path(arguments.workdir, "table.md").read_text("utf-8"))
    return code


def demo(arguments) -> None:
    from flax_heads.console import set_up
    from flax_heads.demo import run_demo

    set_up()
    run_demo(arguments.output, arguments.photo, arguments.driving, arguments.model)
