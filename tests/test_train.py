"""The training program: resumes exactly, survives a kill, refuses what does not fit."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from configs import synthetic as recipe_file
from data_pipeline.archive import load_archive
from data_pipeline.errors import InputError
from flax_heads import checkpoints, evaluate, integrity
from flax_heads.evaluate import evaluate_held_out
from flax_heads.evaluation_data import self_cases
from flax_heads.meta_model import fine_tune, load_model
from flax_heads.scores import Judges
from flax_heads.train import EXIT_PREEMPTED, train
from flax_heads.training_data import open_episodes, trained_on

ROOT = pathlib.Path(__file__).resolve().parents[1]
# jax 0.12 on simulated devices: a donated buffer that cannot be reused only costs.
pytestmark = pytest.mark.filterwarnings("ignore:Some donated buffers")


def tiny_config(steps: int):
    config = recipe_file.get_config("tiny")
    config.num_support = 2
    config.data.identity_augmentation = 0.5  # resuming makes the same people again
    config.num_train_steps = steps
    config.update(log_every_steps=1, eval_every_steps=100, checkpoint_every_steps=2)
    config.fine_tune.update(num_iterations=2, augmentations=4)
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of four steps: (workdir, its last state)."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, jax.device_get(train(tiny_config(4), workdir))


def _copy_people(workdir, folder):
    """Those rendered for one run, for another: they need not be rendered again."""
    for path in workdir.glob("synthetic*.npz"):
        shutil.copy(path, folder)


def _metrics(workdir) -> list[dict]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def _assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, jax.device_get(b))


def test_leaves_what_it_promises(run):
    workdir, _ = run
    lines = _metrics(workdir)
    steps = [line["step"] for line in lines if "loss/content" in line]
    assert steps == [1, 2, 3, 4]
    assert (workdir / "held_out_0000004.png").exists()
    assert json.loads((workdir / "config.json").read_text())["size"] == 16
    assert list((workdir / "tensorboard").iterdir())


def test_two_halves_equal_the_whole_bit_for_bit(run, tmp_path):
    workdir, whole = run
    _copy_people(workdir, tmp_path)
    train(tiny_config(2), tmp_path)
    _assert_same(whole, train(tiny_config(4), tmp_path))


def test_finished_run_has_nothing_to_do(run):
    workdir, whole = run
    _assert_same(whole, train(tiny_config(4), workdir))


def test_killed_in_every_way_it_ends_the_same(run, tmp_path):
    """SIGKILL in the middle of a save, SIGTERM, SIGKILL anywhere; then to the end.

    Bit for bit the state of a run that was left alone, and the same lines of metrics.
    """
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for folder in (killed, whole):
        folder.mkdir()
        _copy_people(run[0], folder)
    saves = killed / "checkpoints"
    for how in ("in a save", "told to stop", "anywhere"):
        before = max(_finished_checkpoints(killed), default=0)
        process = _start(killed, steps=100_000)
        _wait(
            process, lambda b=before: max(_finished_checkpoints(killed), default=0) > b
        )
        if how == "in a save":
            _wait(process, lambda p=process: _stopped_in_a_save(p, saves), pause=0)
        elif how == "anywhere":
            time.sleep(np.random.default_rng().uniform(0, 0.5))
        term = how == "told to stop"
        process.send_signal(signal.SIGTERM if term else signal.SIGKILL)
        code = process.wait(timeout=60)
        assert code == (EXIT_PREEMPTED if term else -signal.SIGKILL)
        if term:
            last = max(line["step"] for line in _metrics(killed))
            assert max(_finished_checkpoints(killed)) == last
    end = max(_finished_checkpoints(killed)) + 1
    resumed = train(tiny_config(end), killed)
    alone = tiny_config(end)
    alone.checkpoint_every_steps = 100_000
    assert integrity.digests(train(alone, whole)) == integrity.digests(resumed)
    expected, lines = ([_timeless(x) for x in _metrics(w)] for w in (whole, killed))
    assert lines == expected


def _stopped_in_a_save(process, saves) -> bool:
    """Whether it stands still now, with a step half written."""
    if any(saves.glob("*-tmp")):
        process.send_signal(signal.SIGSTOP)
        if any(saves.glob("*-tmp")):
            return True
        process.send_signal(signal.SIGCONT)
    return False


def _timeless(line: dict) -> dict:
    return {k: v for k, v in line.items() if k != "steps_per_second"}


def test_damaged_newest_checkpoint_costs_only_time(run, tmp_path):
    workdir, whole = run
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "checkpoints" / "4" / "state").rglob("d/*"):
        os.truncate(path, path.stat().st_size // 2)
    _assert_same(whole, train(tiny_config(4), tmp_path))
    assert (tmp_path / "damaged_checkpoints" / "4").is_dir()
    assert sorted(_finished_checkpoints(tmp_path)) == [2, 4]
    steps = [line["step"] for line in _metrics(tmp_path) if "l1" in line]
    assert steps == [1, 2, 3, 4]


def _start(workdir, steps):
    """The real command in a process of its own, as tiny as `tiny_config`."""
    code = (
        "import sys; from tests.test_train import tiny_config;"
        "from flax_heads.train import train;"
        f"train(tiny_config({steps}), sys.argv[1])"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(workdir)],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    _STARTED.append(process)
    return process


_STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def _none_is_left_behind():
    yield
    while _STARTED:
        process = _STARTED.pop()
        process.kill()
        process.wait()


def _finished_checkpoints(workdir) -> list[int]:
    folder = workdir / "checkpoints"
    return [int(p.name) for p in folder.glob("*") if p.name.isdigit()]


def _wait(process, condition, pause=0.05):
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert process.poll() is None, "the run ended by itself"
        if condition():
            return
        time.sleep(pause)
    raise AssertionError("the run never got there")


def test_other_config_is_refused_with_the_fields_that_differ(run):
    workdir, _ = run
    config = tiny_config(6)
    config.optimizer.generator_learning_rate = 1.0
    config.loss.match = 3.0
    with pytest.raises(InputError) as error:
        train(config, workdir)
    message = str(error.value)
    assert str(workdir) in message and "\n" not in message
    assert "optimizer.generator_learning_rate" in message and "loss.match" in message
    assert "num_train_steps" not in message


def test_other_videos_are_refused_whatever_their_number(run, tmp_path):
    """Rows of W would be other people's; the same people elsewhere are welcome."""
    workdir, whole = run
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    shutil.copy(workdir / "synthetic.npz", tmp_path / "same.npz")
    people = load_archive(tmp_path / "same.npz")
    people.select([1, 0, *range(2, people.num_videos)]).save(tmp_path / "synthetic.npz")
    with pytest.raises(InputError, match="by name, order and length"):
        train(tiny_config(4), tmp_path)
    (tmp_path / "same.npz").replace(tmp_path / "synthetic.npz")
    _assert_same(whole, train(tiny_config(4), tmp_path))


def test_people_rendered_for_another_config_are_rendered_anew(tmp_path):
    """A run that was cut short before its first checkpoint leaves its people behind."""
    config = tiny_config(4)
    config.data.num_videos = 2
    first, _ = open_episodes(config, tmp_path)
    config.seed, config.data.num_videos = 9, 3
    second, held_out = open_episodes(config, tmp_path)
    assert (first.num_videos, second.num_videos) == (2, 3)
    assert second.videos[0] == "synthetic9_00000"
    assert held_out.videos[0] == "synthetic2000009_00000"
    read_back = open_episodes(config, tmp_path)
    (tmp_path / "synthetic.npz").write_bytes(b"torn")
    drawn_again = open_episodes(config, tmp_path)
    for people, *others in zip((second, held_out), read_back, drawn_again):
        for same in others:
            np.testing.assert_array_equal(people.frames, same.frames)


def test_ctrl_c_saves_before_it_ends(run, tmp_path):
    _copy_people(run[0], tmp_path)
    process = _start(tmp_path, steps=100_000)
    _wait(process, lambda: _finished_checkpoints(tmp_path))
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == EXIT_PREEMPTED
    last = max(line["step"] for line in _metrics(tmp_path))
    assert max(_finished_checkpoints(tmp_path)) == last


def test_init_from_takes_the_networks_and_starts_at_step_zero(run, tmp_path):
    workdir, whole = run
    config = tiny_config(0)
    config.init_from = str(workdir)
    state = jax.device_get(train(config, tmp_path))
    _assert_same(whole.ema, state.ema)
    _assert_same(whole.ema, state.generator.params)
    assert state.step == 0 and _finished_checkpoints(tmp_path) == [0]
    assert (state.video_embeddings.values != whole.video_embeddings.values).any()


def test_people_of_the_models_that_a_run_goes_on_from_are_noted(run, tmp_path):
    config = tiny_config(0)
    config.seed = 77
    config.init_from = str(run[0])
    train(config, tmp_path)
    own = set(open_episodes(config, tmp_path)[0].identities)
    assert trained_on(tmp_path) == own | trained_on(run[0]) > own


def test_resume_takes_another_runs_whole_state(run, tmp_path):
    workdir, whole = run
    config = tiny_config(4)
    config.resume = str(workdir)
    _assert_same(whole, train(config, tmp_path))
    assert _finished_checkpoints(tmp_path) == [4]  # though no step was left to make


def test_resume_from_nowhere_is_refused_and_makes_nothing(run, tmp_path):
    config = tiny_config(4)
    config.resume = str(tmp_path / "nowhere")
    with pytest.raises(InputError, match="nowhere: has no checkpoint"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "nowhere").exists()


def test_init_from_other_shapes_is_refused(run, tmp_path):
    config = tiny_config(1)
    config.model.generator.channels = (8, 24)
    config.init_from = str(run[0])
    with pytest.raises(InputError, match="other shapes"):
        train(config, tmp_path)


def test_training_and_held_out_people_are_disjoint(run):
    config = tiny_config(4)
    training, held_out = open_episodes(config, run[0])
    assert not set(training.identities) & set(held_out.identities)
    noted = trained_on(f"{run[0]}@4")
    assert noted == trained_on(run[0]) == set(training.identities)
    scored = self_cases(load_model(run[0]), None, 1, 1, 4, seed=0)
    scored = {case.identity for case in scored}
    assert not scored & (noted | set(held_out.identities))


@pytest.mark.parametrize("kind", ["records", "archive"])
def test_data_without_a_path_is_asked_for(kind, tmp_path):
    config = tiny_config(1)
    config.data.update(kind=kind, path="")
    with pytest.raises(InputError, match=r"add --config\.data\.path"):
        open_episodes(config, tmp_path)


def test_fine_tuning_never_reads_w(run, tmp_path):
    """The arrays of W and of both optimisers may be gone: a model loads without them."""
    copy = tmp_path / "checkpoints" / "4"
    shutil.copytree(run[0] / "checkpoints" / "4", copy)
    loaded = checkpoints.load_for_fine_tuning(tmp_path)[2]
    arrays = jax.tree.leaves(loaded)
    whole = jax.tree.leaves(run[1])
    assert sum(a.size for a in arrays) < 0.6 * sum(np.size(a) for a in whole)
    w_shape = run[1].video_embeddings.values.shape
    assert all(a.shape != w_shape for a in arrays)


def test_model_to_talking_head(run):
    model = load_model(run[0])
    assert model.step == 4
    _, people = open_episodes(model.config, run[0])
    photos, landmarks = people.frames[:2], people.landmarks[:2]
    forward = fine_tune(model, photos, landmarks, num_iterations=0)
    tuned = fine_tune(model, photos, landmarks, num_iterations=2)
    assert tuned.history["iterations"] == 2
    frame = next(tuned.animate(landmarks[:1]))
    assert frame.shape == (16, 16, 3) and frame.dtype == np.uint8
    assert not np.array_equal(forward.psi, tuned.psi)


def test_feed_forward_head_equals_the_meta_learned_generator(run):
    """Folding spectral norm into the weights changes no picture."""
    from data_pipeline.raster import draw_rasters
    from flax_heads.meta_learning import embed, generate, project
    from flax_heads.objectives import to_unit_range
    from flax_heads.spectral import normalize, power_iteration

    model = load_model(run[0])
    _, people = open_episodes(model.config, run[0])
    photos, landmarks = people.frames[:2], people.landmarks[:2]
    vectors = power_iteration(model.params, model.vectors, 1000)
    model = dataclasses.replace(model, vectors=vectors)
    rasters = to_unit_range(draw_rasters(landmarks, model.size))
    params = normalize(model.params, model.vectors)
    embedding = embed(
        model.networks, params, to_unit_range(photos)[None], rasters[None]
    )
    psi = project(model.networks, params, embedding)
    expected = generate(model.networks, params, rasters[:1], psi)
    head = fine_tune(model, photos, landmarks, num_iterations=0)
    actual = next(head.animate(landmarks[:1])).astype(float) / 127.5 - 1
    np.testing.assert_allclose(actual, expected[0], atol=0.02)


def test_evaluation_goes_on_where_it_was(run, tmp_path, monkeypatch):
    pytest.importorskip("dlib")
    options = {"shots": (2,), "num_videos": 2, "num_frames": 2}
    options["fine_tune_fields"] = ["num_iterations=1"]
    options |= {"variants": ["ft"], "corrections": 1}
    rows = evaluate_held_out(run[0], tmp_path / "a", **options)
    assert len(rows) == 5  # methods
    assert rows[4]["method"] == "ft_corrected"
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert report["results"] == rows and report["fine_tune"]["num_iterations"] == 1
    assert len(report["per_video"]) == 10 and report["data"]["sha256"]
    assert (tmp_path / "a" / "grid.png").exists()

    draw, calls = evaluate.draw, []

    def killed_at_the_second(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return draw(*args)

    monkeypatch.setattr(evaluate, "draw", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        evaluate_held_out(run[0], tmp_path / "b", **options)
    assert not (tmp_path / "b" / "report.json").exists()
    resumed = evaluate_held_out(run[0], tmp_path / "b", **options)
    assert len(calls) == 2 + 1  # one of two was finished
    assert resumed == rows
    with pytest.raises(InputError, match="other settings"):
        evaluate_held_out(run[0], tmp_path / "b", **options | {"seed": 1})


def test_cross_reenactment_is_scored_against_the_truth_and_goes_on(
    run, tmp_path, monkeypatch
):
    pytest.importorskip("dlib")
    options = {"mode": "cross", "shots": (1, 2), "num_videos": 2, "num_frames": 2}
    options["variants"] = ["ff"]
    rows = evaluate_held_out(run[0], tmp_path, **options)
    methods = ["nearest", "mean", "warp", "warp_oracle", "ff", "ff_oracle"]
    assert [(row["shots"], row["method"]) for row in rows] == [
        (t, method) for t in (1, 2) for method in methods
    ]
    report = json.loads((tmp_path / "report.json").read_text())
    drivers = report["data"]["drivers"]
    assert len(drivers) == 2 and not set(drivers) & {report["data"]["videos"][0]}
    assert {r["driver"] for r in report["per_video"]} == set(drivers)
    assert 0 < report["transfer_error"]["2"] < 1
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("Cross-reenactment of 2 rendered people")
    assert f"{drivers[0]} → {report['data']['videos'][0]}" in text

    draw, calls = evaluate.draw, []

    def counted(*args):
        calls.append(args)
        return draw(*args)

    monkeypatch.setattr(evaluate, "draw", counted)
    (tmp_path / "scores" / "T2_00001.npz").unlink()
    assert evaluate_held_out(run[0], tmp_path, **options) == rows and len(calls) == 1
    for other in ({"transfer": "none"}, {"mode": "self"}):
        with pytest.raises(InputError, match="other settings"):
            evaluate_held_out(run[0], tmp_path, **options | other)
    with pytest.raises(InputError, match="add ft to --variants"):
        evaluate_held_out(run[0], tmp_path, **options | {"corrections": 1})


def test_a_model_of_the_ff_variant_stands_beside(run, tmp_path):
    pytest.importorskip("dlib")
    rows = evaluate_held_out(
        run[0], tmp_path, shots=(1, 1), num_videos=1, num_frames=2, ff_model=run[0]
    )
    by_method = {row["method"]: row for row in rows}
    assert list(by_method) == ["nearest", "mean", "warp", "ff", "before_ft", "ft"]
    # The same model here, so the same frames.
    assert by_method["ff"]["l1"] == by_method["before_ft"]["l1"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"shots": ()},
        {"shots": (0, 2)},
        {"variants": ["fft"]},
        {"variants": []},
        {"num_frames": 0},
        {"num_videos": 0},
        {"corrections": -1},
        {"seed": -1},
    ],
    ids=str,
)
def test_arguments_out_of_range_are_one_line(run, tmp_path, wrong):
    pytest.importorskip("dlib")
    (name,) = wrong
    with pytest.raises(InputError, match=f"{name}.*expected"):
        evaluate_held_out(run[0], tmp_path, **wrong)
    assert not list(tmp_path.iterdir())


def test_lpips_of_tiny_frames_is_refused_before_the_work(run, tmp_path):
    judges = Judges({}, lpips=object())
    with pytest.raises(InputError, match="at least 31 px"):
        evaluate_held_out(run[0], tmp_path, judges=judges)


def test_people_of_the_ff_model_are_not_held_out(run, tmp_path, caplog, monkeypatch):
    """Whom either of the two models was trained on, the report names."""
    pytest.importorskip("dlib")
    options = {"shots": (1,), "num_videos": 1, "num_frames": 2, "variants": ["ff"]}
    (case,) = self_cases(load_model(run[0]), None, 1, 2, 1, 0)
    other = tmp_path / "other"
    shutil.copytree(run[0], other)
    asked = {str(other): frozenset([case.identity])}
    monkeypatch.setattr(
        evaluate, "trained_on", lambda source: asked.get(str(source), frozenset())
    )
    evaluate_held_out(run[0], tmp_path / "a", **options, ff_model=other)
    text = (tmp_path / "a" / "report.md").read_text()
    assert f"trained on {case.identity}." in text
    evaluate_held_out(run[0], tmp_path / "b", **options)
    assert "Not held out" not in (tmp_path / "b" / "report.md").read_text()


@pytest.mark.parametrize("field", ["speed=3", "num_iterations", "num_iterations=x y"])
def test_bad_fine_tuning_fields_are_one_line(run, tmp_path, field):
    pytest.importorskip("dlib")
    with pytest.raises(InputError, match=field.split("=")[0]):
        evaluate_held_out(run[0], tmp_path, fine_tune_fields=[field])


def test_missing_checkpoint_is_one_line(tmp_path):
    with pytest.raises(InputError, match="has no checkpoint"):
        load_model(tmp_path)
    with pytest.raises(InputError, match="has no checkpoint"):
        load_model(tmp_path / "nowhere")
