"""The command line as a user meets it: exit codes, and one line for every mistake."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from flax_heads import cli
from flax_heads.animate import sheet_beside

ROOT = pathlib.Path(__file__).resolve().parents[1]


def _fails(capsys, *argv) -> str:
    """Runs a command that must end in code 2 and one line; returns the line."""
    assert cli.main([str(a) for a in argv]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("flax-heads: ")
    return lines[0]


def test_train_without_flags(capsys):
    assert "--config" in _fails(capsys, "train")


def test_train_explains_itself(capsys):
    assert cli.main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--workdir=DIR" in text and "exit code" in text


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--config=nowhere.py"], "nowhere.py"),
        (
            ["--config=configs/synthetic.py:nonsense"],
            "expected a size first (small, smoke, tiny)",
        ),
        (["--config=configs/synthetic.py", "--config.batch=3"], "no field 'batch'"),
        (["--config=configs/synthetic.py", "--config.batch_size=many"], "many"),
        (["--config=configs/synthetic.py", "extra"], "unexpected argument 'extra'"),
    ],
)
def test_train_with_bad_flags(capsys, tmp_path, monkeypatch, flags, expected):
    monkeypatch.chdir(ROOT)
    line = _fails(capsys, "train", f"--workdir={tmp_path}", *flags)
    assert expected in line and "usage" in line


def test_train_on_missing_data(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    line = _fails(
        capsys, "train", "--config=configs/synthetic.py:smoke",
        f"--workdir={tmp_path}", "--config.data.kind=archive",
        "--config.data.path=nowhere.npz",
    )  # fmt: skip
    assert "nowhere.npz" in line


def test_batch_that_does_not_divide_over_the_devices(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    line = _fails(
        capsys, "train", "--config=configs/synthetic.py:smoke",
        f"--workdir={tmp_path}", "--config.batch_size=3",
    )  # fmt: skip
    assert "multiple of 4" in line


def test_options_for_no_runner_are_refused(capsys, tmp_path):
    argv = ["prepare", f"--source={tmp_path}", f"--data-dir={tmp_path / 'data'}"]
    argv += ["--layout=folder", "--beam-options", "flink_master=host:8081"]
    assert "name it by --runner" in _fails(capsys, *argv)
    assert not (tmp_path / "data").exists()


def test_missing_model_head_driver_and_corpus(capsys, tmp_path):
    photo = tmp_path / "photo.png"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(photo)
    output = tmp_path / "out"
    nowhere = tmp_path / "nowhere"
    for argv in (
        ("finetune", "--model", nowhere, "--photos", photo, "--output", output),
        ("animate", "--head", nowhere, "--driving", "x.mp4", "--output", "y.mp4"),
        ("evaluate", "--model", nowhere, "--output", output),
        ("track", "--driving", nowhere / "x.mp4", "--output", tmp_path / "out.npz"),
        ("prepare", "--source", nowhere, "--layout", "folder", "--data-dir", output),
        ("info", "--config", nowhere / "config.py"),
    ):
        assert str(nowhere) in _fails(capsys, *argv)
        assert not output.exists()


def test_home_is_where_a_shell_would_find_it(capsys, tmp_path, monkeypatch):
    """bash expands `--output ~/x` and leaves `--output=~/x` to the program."""
    monkeypatch.setenv("HOME", str(tmp_path))
    line = _fails(capsys, "track", "--driving=a.mp4", "--output=~/nowhere/out.npz")
    assert f"{tmp_path}/nowhere" in line


def test_unknown_command_is_argparses_error():
    with pytest.raises(SystemExit) as error:
        cli.main(["dance"])
    assert error.value.code == 2


def test_info_command(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    info = ["info", "--config", "configs/synthetic.py:smoke"]
    assert cli.main([*info, "--config.batch_size=6"]) == 0
    text = capsys.readouterr().out
    assert "embedder" in text and "FLOPs of a step" in text
    assert "6 x (K=" in text
    assert cli.main(["info", "--config", "configs/voxceleb2.py:smoke"]) == 0
    assert "1,000 (assumed: give --num-videos" in capsys.readouterr().out
    assert "no field 'batch'" in _fails(capsys, *info, "--config.batch=6")
    line = _fails(capsys, *info, "--config.sise=64")
    assert line.endswith('no field \'sise\'. Did you mean "size" instead of "sise"?')


@pytest.mark.parametrize(
    "name",
    "zero_byte.mp4 text_renamed.mp4 truncated_no_moov.mp4 audio_only.mp4 "
    "no_face_noise.mp4 no_face_gradient.mp4 one_pixel.png bomb_60000x60000.png "
    "huge_header_only.png truncated.jpg corrupt.jpg".split(),
)
def test_bad_media_as_a_users_photo_or_driver(capsys, samples, tmp_path, name):
    pytest.importorskip("dlib")
    path = samples / "bad" / name
    if path.suffix == ".mp4":
        output = tmp_path / "track.npz"
        line = _fails(capsys, "track", "--driving", path, "--output", output)
        assert not output.exists()
    else:
        from data_pipeline.errors import InputError
        from data_pipeline.people import load_person

        with pytest.raises(InputError) as error:
            load_person([path], 64)
        line = str(error.value)
    assert name in line


def test_the_whole_path_from_a_photograph_to_a_video(tmp_path):
    """train, finetune, track and animate as commands, each in a process of its own."""
    data = pytest.importorskip("skimage.data")
    pytest.importorskip("av")
    pytest.importorskip("dlib")
    from data_pipeline import synthetic
    from data_pipeline.video import probe
    from data_pipeline.video_writer import VideoWriter

    photo, driver = tmp_path / "astronaut.png", tmp_path / "driver.mp4"
    Image.fromarray(data.astronaut()).save(photo)
    motion = synthetic.sample_motion(1, 12, "talk")
    frames, _ = synthetic.render(synthetic.sample_identity(1), motion, 128)
    with VideoWriter(driver, 128, 128, 25) as writer:
        for frame in frames:
            writer.write(frame)

    def start(*argv):
        environment = os.environ | {"XLA_FLAGS": "", "XDG_CACHE_HOME": str(tmp_path)}
        return subprocess.Popen(
            [sys.executable, "-m", "flax_heads.cli", *map(str, argv)],
            cwd=ROOT, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def finish(process):
        try:
            stdout, stderr = process.communicate(timeout=300)
        finally:
            process.kill()
        assert process.returncode == 0, stderr
        return stdout

    def run(*argv):
        return finish(start(*argv))

    model, head = tmp_path / "model", tmp_path / "head"
    tracking = start("track", "--driving", driver, "--output", tmp_path / "track.npz")
    run(
        "train", "--config=configs/synthetic.py:tiny", f"--workdir={model}",
        "--config.size=32", "--config.num_train_steps=2",
        "--config.fine_tune.check_every=1", "--config.fine_tune.augmentations=4",
    )  # fmt: skip
    text = run("finetune", "--model", model, "--photos", photo, "--output", head)
    assert "ran all 2 iterations; best at" in text
    assert json.loads((head / "head.json").read_text())["history"]["photos"] == 1
    finish(tracking)
    outputs = {
        d: tmp_path / f"{d.suffix[1:]}.mp4" for d in (driver, tmp_path / "track.npz")
    }
    animating = [
        start("animate", "--head", head, "-d", driving, "-o", output, *more)
        for more, (driving, output) in zip([["--corrections=1"], []], outputs.items())
    ]
    for process, output in zip(animating, outputs.values()):
        assert "12 frames" in finish(process)
        assert probe(output).num_frames == 12
        assert sheet_beside(output).exists()


def test_export_and_import_of_weights(tmp_path, capsys, monkeypatch):
    """A model goes to PyTorch's names and back, by the commands."""
    pytest.importorskip("safetensors")
    monkeypatch.chdir(ROOT)
    out = tmp_path / "w.safetensors"
    line = _fails(capsys, "export", "--to", "torch", "--head", tmp_path, "-o", out)
    assert "--model to torch" in line
    line = _fails(capsys, "export", "--to=torch", f"--model={tmp_path}", f"-o={out}")
    assert "has no checkpoint" in line
    recipe = "--config=configs/synthetic.py:smoke"
    line = _fails(capsys, "import", f"--weights={out}", recipe, f"-o={tmp_path}/w")
    assert "w.safetensors" in line


@pytest.mark.parametrize(
    "arguments",
    [
        ("prepare", "--source=a", "--layout=folder", "--data-dir=b", "--workers=-1"),
        ("finetune", "--photos", "a.png", "-o", "b", "--frames-per-clip=0"),
        ("evaluate", "-o", "b", "--videos=0"),
        ("evaluate", "-o", "b", "--shots", "0"),
        ("evaluate", "-o", "b", "--seed=-1"),
        ("check", "a", "--pictures-per-video=-1"),
    ],
)
def test_numbers_out_of_range_are_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(list(arguments))
    assert error.value.code == 2
    assert "is less than" in capsys.readouterr().err.splitlines()[-1]


def test_a_system_error_is_one_line(tmp_path, capsys):
    """The folder of a report is a file: whoever finds out, no traceback is printed."""
    (tmp_path / "report").write_text("")
    arguments = ["evaluate", "--data-dir=synthetic", "--videos=1", "--frames=1"]
    arguments += ["--shots", "1", "--variants", "ff", f"--output={tmp_path}/report"]
    assert cli.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert (
        line.startswith(f"flax-heads: {tmp_path}/report") and "Not a directory" in line
    )


def test_a_reader_that_has_enough_is_no_error():
    """`flax-heads info … | head -1`, whatever is still to be printed."""
    program = [sys.executable, "-u", "-m", "flax_heads.cli", "info"]
    command = [*program, "--config=configs/synthetic.py:smoke"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141
