"""The faults that users of earlier implementations ran into, and what catches each one.

`CAUGHT_BY` is the table of all of them. Most are caught beside the code in question;
here are the tests of the rest, each named after its fault. Its docstring says what the
users saw.
"""

import ast
import functools
import pathlib
import subprocess
import sys
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from configs import synthetic as synthetic_recipe
from data_pipeline import episodes, synthetic
from data_pipeline.raster import RasterStyle, draw_raster
from data_pipeline.tracking import LandmarkTrack
from flax_heads import animate, checkpoints, layers, recipe
from flax_heads.meta_learning import make_meta_step
from flax_heads.meta_model import fine_tune, load_model
from flax_heads.objectives import (
    LossWeights,
    PerceptualNetwork,
    discriminator_objective,
)
from flax_heads.state import init_state
from flax_heads.talking_head import TalkingHead
from tests import tiny

ROOT = pathlib.Path(__file__).resolve().parents[1]
KEY = jax.random.key(0)

CAUGHT_BY = {
    "VGG fed RGB or 0-1": [
        "test_perceptual::test_input_of_the_first_layer",
        "test_perceptual::test_taps",
        "test_perceptual::test_wrong_scale_or_order_is_seen",
        "test_pitfalls::test_vgg_fed_another_range_by_the_step",
    ],
    "VGG19's and VGGFace's tap lists swapped": ["test_perceptual::test_taps"],
    "gradient of the content loss cut": [
        "test_meta_learning::test_perceptual_network_is_asked_and_stays_constant",
        "test_perceptual::test_content_loss_gradient_reaches_the_frame",
    ],
    "sigmoid before the hinge": [
        "test_losses::test_hinge_is_the_papers_without_sigmoid",
        "test_pitfalls::test_sigmoid_before_the_hinge",
    ],
    "hinge without ReLU": [
        "test_losses::test_hinge_has_no_gradient_beyond_the_margin",
        "test_losses::test_hinge_is_the_papers_without_sigmoid",
    ],
    "target frame drawn among the K support frames": [
        "test_episodes::test_frames_are_distinct_in_range_and_the_target_is_no_support",
        "test_archive::test_batches_hold_frames_of_one_video_with_their_rasters",
        "test_pitfalls::test_target_among_the_support_frames_of_a_substitute",
    ],
    "missing faces replaced by another frame's landmarks": [
        "test_prepare::test_frames_without_a_face_are_dropped_and_their_neighbours_tried",
        "test_pitfalls::test_missing_faces_replaced_by_another_frames_landmarks",
    ],
    "W indexed per utterance": [
        "test_voxceleb::test_utterances_of_a_video_are_merged",
        "test_prepare::test_a_record_holds_matching_frames_rasters_and_landmarks",
        "test_archive::test_batches_hold_frames_of_one_video_with_their_rasters",
    ],
    "checkpoint growing with M": [
        "test_train::test_fine_tuning_never_reads_w",
        "test_pitfalls::test_checkpoint_growing_with_the_number_of_videos",
    ],
    "fine-tuning's optimiser built before psi' and w' exist": [
        "test_fine_tuning::test_learns_the_photos_and_moves_psi_and_w",
    ],
    "second AdaIN reusing the first one's statistics": [
        "test_networks::test_every_adain_layer_shapes_the_picture",
        "test_pitfalls::test_second_adain_reusing_the_first_ones_statistics",
    ],
    "instance norm on the RGB output": [
        "test_pitfalls::test_instance_norm_on_the_rgb_output"
    ],
    "max-pool instead of sum": [
        "test_networks::test_sum_pool_orders_differ_as_stated",
        "test_pitfalls::test_max_pool_instead_of_sum",
    ],
    "aspect ratio changed by the crop": [
        "test_geometry::test_aspect_ratio_is_kept",
        "test_pitfalls::test_aspect_ratio_changed_by_the_crop",
    ],
    "whole video in memory": [
        "test_fine_tuning::test_animate_reads_its_driver_as_it_goes",
        "test_pitfalls::test_whole_video_in_memory",
        "test_pitfalls::test_whole_video_in_memory_of_the_reader",
    ],
    "output fps fixed regardless of the driver": [
        "test_animate::test_track_to_video_keeps_every_frame_and_its_time",
        "test_animate::test_video_driver_keeps_its_sound",
        "test_pitfalls::test_output_fps_fixed_regardless_of_the_driver",
    ],
    "audio dropped": [
        "test_animate::test_video_driver_keeps_its_sound",
        "test_video::test_sound_is_kept_in_step",
    ],
    "half precision giving black boxes": [
        "test_pitfalls::test_half_precision_giving_black_boxes",
        "test_pitfalls::test_half_precision_in_the_statistics_of_instance_norm",
    ],
}


def test_the_table_is_true():
    """Every test it names is there, and every test of this file is named in it."""
    named = {place for places in CAUGHT_BY.values() for place in places}
    folder = pathlib.Path(__file__).parent
    written = set()
    for module in {place.split("::")[0] for place in named}:
        for node in ast.parse((folder / f"{module}.py").read_text()).body:
            if isinstance(node, ast.FunctionDef):
                written.add(f"{module}::{node.name}")
    assert sorted(named - written) == []
    ours = {place for place in written if place.startswith("test_pitfalls::test_")}
    assert ours - named == {"test_pitfalls::test_the_table_is_true"}


NETWORKS = tiny.SHALLOW_NETWORKS
ADAMS = {
    "generator_adam": tiny.GENERATOR_ADAM,
    "discriminator_adam": tiny.DISCRIMINATOR_ADAM,
}


def new_state(key, num_videos=tiny.NUM_VIDEOS):
    return init_state(NETWORKS, key, size=tiny.SIZE, num_videos=num_videos, **ADAMS)


@pytest.fixture(scope="module")
def state():
    return jax.jit(new_state)(KEY)


@pytest.fixture(scope="module")
def images():
    """Two arrays float32 [4, H, W, 3] in [-1, 1]."""
    shape = (2, 4, tiny.SIZE, tiny.SIZE, 3)
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


# --- Losses


def test_vgg_fed_another_range_by_the_step(state):
    """Faces stayed blurred, or collapsed: the step handed VGG frames in [0, 1]."""
    seen = []

    def apply(_, frames):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), frames)
        return [frames]

    net = PerceptualNetwork("spy", 3.0, apply, None)
    weights = LossWeights(adversarial=0.0, feature_matching=0.0, match=0.0)
    step = make_meta_step(
        NETWORKS, **ADAMS, weights=weights, perceptual=[net], discriminator_updates=1
    )
    batch = tiny.make_batch()
    _, metrics = jax.jit(step)(state, batch)
    jax.effects_barrier()
    real = batch["target_frame"] / 127.5 - 1
    others = [x for x in seen if np.abs(x - real).max() > 1e-6]
    assert len(others) == 1 and len(seen) == 2
    assert others[0].min() < -0.05 and np.abs(others[0]).max() <= 1
    expected = 3 * np.abs(others[0] - real).mean()
    np.testing.assert_allclose(metrics["loss/content"], expected, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss/content"], 6 * metrics["l1"], rtol=1e-4)


def test_sigmoid_before_the_hinge(state, images):
    """D hardly learned: between 0 and 1 no score is ever beyond the hinge's margin."""
    frames, rasters = images
    rows = state.video_embeddings.values[:4]

    @jax.jit
    def objective(bias):
        return discriminator_objective(
            NETWORKS.discriminator,
            state.discriminator.params | {"b": bias},
            state.discriminator.vectors,
            rows,
            frames,
            frames[::-1],
            rasters,
        )

    _, start = objective(0.0)
    for bias in (50.0, -50.0):
        loss, metrics = objective(bias)
        for name in ("score/real", "score/fake"):
            np.testing.assert_allclose(metrics[name], start[name] + bias, atol=1e-3)
        wrong = metrics["score/fake"] if bias > 0 else -metrics["score/real"]
        np.testing.assert_allclose(loss, 1 + wrong, atol=1e-3)


# --- Data


def test_target_among_the_support_frames_of_a_substitute():
    """Perfect in training, poor on new poses: the answer was among the questions."""
    for attempt in range(1, 40):
        video, frames = episodes.draw_substitute(
            0, 7, attempt, num_support=4, frames_per_video=np.array([6, 3, 5])
        )
        assert video in (0, 2) and len(set(frames.tolist())) == 5


def test_missing_faces_replaced_by_another_frames_landmarks(tmp_path):
    """Mouths and eyes that follow nothing: frames were paired with others' landmarks."""
    pytest.importorskip("dlib")
    pytest.importorskip("av")
    pytest.importorskip("skimage")
    from data_pipeline.people import load_person
    from data_pipeline.tracking import track_video
    from tests.moving_face import face_frame, write_frames

    frames = [face_frame(128, i) for i in range(12)]
    for i in (0, 5, 6, 7, 11):
        frames[i] = np.full_like(frames[i], 90)
    clip = write_frames(tmp_path / "clip.mp4", frames)
    faces = [1, 2, 3, 4, 8, 9, 10]
    track = track_video(clip)
    assert np.flatnonzero(track.found).tolist() == faces
    assert np.isnan(track.landmarks[[0, 5, 6, 7, 11]]).all()
    person = load_person([clip], 64, frames_per_clip=12)
    assert person.sources == [f"clip.mp4@{i / 25:.2f}s" for i in faces]


def test_aspect_ratio_changed_by_the_crop(tmp_path):
    """Everybody had the wide face of a squeezed film frame."""
    pytest.importorskip("dlib")
    pytest.importorskip("av")
    pytest.importorskip("skimage")
    from data_pipeline import geometry, packing
    from data_pipeline.landmarks import detect_landmarks
    from data_pipeline.people import load_person
    from data_pipeline.records import Settings, prepare_video
    from data_pipeline.voxceleb import find_videos
    from tests.moving_face import face_frame, write_frames

    frame = np.full((200, 360, 3), 60, np.uint8)
    frame[20:180, 100:260] = face_frame(160)
    write_frames(tmp_path / "mp4/id1/a/1.mp4", [frame] * 2)
    Image.fromarray(frame).save(tmp_path / "photo.png")
    crops = {"photo": load_person([tmp_path / "photo.png"], 128).photos[0]}
    for layout in ("voxceleb2", "folder"):
        (video,) = find_videos(tmp_path, layout)
        example, _ = prepare_video(video, Settings(layout, size=128))
        crops[layout] = packing.decode_jpeg(example["frames"][0], 128)
    before = detect_landmarks(frame, "frame").astype(float)
    for crop in crops.values():
        after = detect_landmarks(crop, "crop").astype(float)
        fitted = geometry.transform(before, geometry.fit_similarity(before, after))
        stretch = np.ptp(after, axis=0) / np.ptp(fitted, axis=0)
        np.testing.assert_allclose(stretch, 1, atol=0.04)


# --- Networks


def test_second_adain_reusing_the_first_ones_statistics():
    """Washed-out, spotted skin: the block's input, not conv1's output, was normalised."""
    block = layers.ResidualBlock(6, norm="adaptive")
    x = jax.random.normal(KEY, (2, 8, 8, 6))
    one, zero, ten = (jnp.full((2, 6), value) for value in (1.0, 0.0, 10.0))
    styles = ((one, zero), (one, ten))  # beta 10 keeps the ReLU out of the way
    variables = block.init(KEY, x, styles)
    variables = jax.tree.map(lambda leaf: 5 * leaf, variables)
    seen = {}

    def spy(function, args, kwargs, context):
        seen[context.module.name] = args[0]
        return function(*args, **kwargs)

    with nn.intercept_methods(spy):
        block.apply(variables, x, styles)
    into_second = np.asarray(seen["conv2"])
    np.testing.assert_allclose(into_second.mean((1, 2)), 10, atol=1e-3)
    np.testing.assert_allclose(into_second.std((1, 2)), 1, atol=1e-2)


@pytest.fixture(scope="module")
def generators():
    """Params, and what G draws by them in float32 and in bfloat16.

    Each is (params, rasters [3, H, W, 3], psi [3, P]) -> frames.
    """
    module = tiny.NETWORKS.generator
    rasters = jnp.zeros((3, tiny.SIZE, tiny.SIZE, 3))
    psi = jnp.ones((3, module.psi_size))
    params = jax.jit(module.init)(KEY, rasters, psi)["params"]

    def drawing(dtype):
        apply = jax.jit(module.clone(dtype=dtype).apply)
        return lambda params, *args: np.asarray(apply({"params": params}, *args))

    return params, drawing(jnp.float32), drawing(jnp.bfloat16)


def test_instance_norm_on_the_rgb_output(generators):
    """Grey pictures, whose skin changed its colour with the background."""
    params, draw, _ = generators
    colour = jnp.array([1.5, -0.5, 0.25])
    last = {"kernel": 0.01 * params["to_rgb"]["kernel"], "bias": colour}
    rasters = jax.random.uniform(KEY, (3, tiny.SIZE, tiny.SIZE, 3), minval=-1)
    psi = jnp.ones((3, tiny.NETWORKS.generator.psi_size))
    frames = draw(params | {"to_rgb": last}, rasters, psi)
    expected = np.broadcast_to(np.tanh(colour), frames.shape)
    np.testing.assert_allclose(frames, expected, atol=0.1)


def test_max_pool_instead_of_sum(state, images):
    """Likeness was lost: the embedding knew only each channel's strongest pixel."""

    @jax.jit
    def outputs(state, images):
        embedding, captured = NETWORKS.embedder.apply(
            {"params": state.generator.normalized()["embedder"]},
            *images,
            capture_intermediates=lambda module, _: module.name == "down1",
        )
        scored = NETWORKS.discriminator.apply(
            {"params": state.discriminator.normalized()}, *images, rows
        )
        return embedding, captured["intermediates"]["down1"]["__call__"][0], scored

    rows = state.video_embeddings.values[:4]
    embedding, last, (scores, features) = jax.device_get(outputs(state, images))
    pooled = np.maximum(last.sum((1, 2)), 0)
    np.testing.assert_allclose(embedding, pooled, rtol=1e-4, atol=1e-5)
    pooled = np.maximum(features[-1].sum((1, 2)), 0)
    params = state.discriminator.params
    expected = (pooled * (rows + params["w0"])).sum(1) + params["b"]  # eq. 5
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


# --- Half precision


@pytest.mark.parametrize("scale", [1.0, 1e4], ids=["usual", "large"])
def test_half_precision_giving_black_boxes(generators, scale):
    """Black squares in some frames: NaN, or statistics that had lost their digits."""
    params, draw_wide, draw_narrow = generators
    size = tiny.SIZE
    motion = synthetic.neutral_motion()
    face = synthetic.landmarks_of(synthetic.sample_identity(0), motion, size)[0]
    flat = [np.full((size, size, 3), value, np.uint8) for value in (0, 128)]
    rasters = np.stack([draw_raster(face, size), *flat]) / np.float32(127.5) - 1
    psi = 1 + 0.3 * jax.random.normal(KEY, (3, tiny.NETWORKS.generator.psi_size))
    # What enters every later block becomes large.
    first = jax.tree.map(lambda leaf: scale * leaf, params["down1"])
    params = params | {"down1": first}
    wide, narrow = (draw(params, rasters, psi) for draw in (draw_wide, draw_narrow))
    assert np.isfinite(narrow).all() and narrow.dtype == np.float32
    assert (wide.std((1, 2, 3)) > 0.2).all()  # there is something to be compared
    difference = np.abs(wide - narrow)
    assert (difference.mean((1, 2, 3)) < 0.03).all() and difference.max() < 0.2


def test_half_precision_in_the_statistics_of_instance_norm():
    """The cause of the black squares: a mean of many pixels has more than 8 bits."""
    rng = np.random.default_rng(0)
    wave = rng.integers(0, 8, (1, 32, 32, 1))
    # All of them are whole in bfloat16: small on a large mean, large, tiny, nothing.
    cases = [256 + 2 * wave, 2.0**20 * wave, 2.0**-10 * wave, 300 + 0 * wave]
    x = np.concatenate(cases, -1).astype(np.float64)
    y = np.asarray(layers.instance_norm(jnp.asarray(x, jnp.bfloat16)), np.float64)
    expected = (x - x.mean((1, 2))) / np.sqrt(x.var((1, 2)) + 1e-4)
    np.testing.assert_allclose(y, expected, atol=0.01)


# --- Checkpoints


def random_state(num_videos):
    """Of the right shapes, which is all that matters here, without compiling."""
    shapes = jax.eval_shape(functools.partial(new_state, num_videos=num_videos), KEY)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes)


def bytes_read() -> int:
    """By this process so far; 0 where the system does not tell."""
    counters = pathlib.Path("/proc/self/io")
    if not counters.exists():
        return 0
    return int(counters.read_text().split("rchar: ")[1].split()[0])


def test_checkpoint_growing_with_the_number_of_videos(tmp_path):
    """A model of hundreds of megabytes to share, nearly all of it rows of W."""
    config = synthetic_recipe.get_config("smoke")
    config.size = tiny.SIZE
    config.model.embedder.update(tiny.ONE_BLOCK)
    config.model.discriminator.update(tiny.ONE_BLOCK)
    config.model.generator.update(tiny.UP_AND_DOWN)
    identity, motion = synthetic.sample_identity(0), synthetic.neutral_motion()
    photos, landmarks = synthetic.render(identity, motion, tiny.SIZE)
    few, many = 100, 100_000
    shapes, read, heads = {}, {}, {}
    for m in (few, few, many):  # the first time, modules are read as well
        state = random_state(m)
        workdir = tmp_path / f"{m:06}"
        with checkpoints.open_manager(workdir) as manager:
            checkpoints.save(manager, 0, state, recipe.as_json(config))
        before = bytes_read()
        model = load_model(workdir)
        read[m] = bytes_read() - before
        leaves = model.params, model.vectors, model.discriminator
        shapes[m] = jax.tree.map(np.shape, (leaves, model.discriminator_vectors))
        head = fine_tune(model, photos, landmarks, num_iterations=0)
        head.save(workdir / "head")
        files = sorted((workdir / "head").iterdir())
        heads[m] = {file.name: file.stat().st_size for file in files}
    assert state.video_embeddings.values.nbytes > 3e6
    assert shapes[few] == shapes[many] and heads[few] == heads[many]
    assert abs(read[many] - read[few]) < 1e5


# --- Media


@pytest.fixture(scope="module")
def head():
    """Somebody of random weights: what is drawn does not matter here."""
    module, size = NETWORKS.generator, 32
    psi = np.ones((1, module.psi_size), np.float32)
    image = np.zeros((1, size, size, 3), np.float32)
    identity, motion = synthetic.sample_identity(1), synthetic.neutral_motion()
    photos, landmarks = synthetic.render(identity, motion, size)
    return TalkingHead(
        generator=tiny.UP_AND_DOWN,
        params=jax.device_get(jax.jit(module.init)(KEY, image, psi)["params"]),
        psi=psi[0],
        size=size,
        style=RasterStyle(),
        landmarks=landmarks,
        photos=photos,
        history={},
    )


def peak_of(function) -> int:
    """Bytes of Python's and numpy's memory that a call needs at its most."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_whole_video_in_memory(head, tmp_path, monkeypatch):
    """The process was killed on a film of minutes: every frame was kept."""
    pytest.importorskip("dlib")
    pytest.importorskip("av")
    pytest.importorskip("skimage")
    from data_pipeline import records, tracking
    from data_pipeline.video import read_frames
    from data_pipeline.voxceleb import find_videos
    from tests.moving_face import write_clip

    def seen_by_tracemalloc(*args, **options):  # which does not see FFmpeg's memory
        return ((time, frame.copy()) for time, frame in read_frames(*args, **options))

    for module in (animate, records, tracking):
        monkeypatch.setattr(module, "read_frames", seen_by_tracemalloc)
    size, num_frames, allowed = 256, 64, 40  # what is read ahead is allowed
    settings = records.Settings("folder", size=32, frames_per_video=2)

    def prepare(clip):
        (video,) = find_videos(clip.parent, "folder")
        assert records.prepare_video(video, settings)[1].kept == 2

    def drive(clip):
        assert animate.drive(head, clip, tmp_path / "out.mp4")["frames"] > 8

    short = write_clip(tmp_path / "short" / "anna.mp4", 9, size)
    long = write_clip(tmp_path / "long" / "anna.mp4", num_frames, size)
    for function in (prepare, drive):
        function(short)  # loads and compiles what it needs
        peak = peak_of(functools.partial(function, long))
        assert peak < allowed * size * size * 3, function


def test_whole_video_in_memory_of_the_reader(tmp_path):
    """The same, in one line: a decoder asked for the list of all frames."""
    pytest.importorskip("av")
    if not pathlib.Path("/proc/self/status").exists():
        pytest.skip("no peak of the resident memory on this system")
    from tests.moving_face import write_frames

    frame = np.zeros((512, 512, 3), np.uint8)
    paths = [
        write_frames(tmp_path / f"{n}.mp4", [frame + np.uint8(i) for i in range(n)])
        for n in (20, 150)
    ]
    code = (
        "import pathlib, sys\n"
        "from data_pipeline.video import read_frames\n"
        "for path in sys.argv[1:]:\n"
        "    assert all(frame.size for _, frame in read_frames(path))\n"
        "    status = pathlib.Path('/proc/self/status').read_text()\n"
        "    print(status.split('VmHWM:')[1].split()[0])\n"
    )
    command = [sys.executable, "-c", code, *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    short, long = map(int, done.stdout.split())  # kB
    assert 1024 * (long - short) < 30 * frame.nbytes


@pytest.mark.parametrize("seconds", [0.02, 0.1])
def test_output_fps_fixed_regardless_of_the_driver(head, tmp_path, seconds):
    """Slow motion, or haste: an animation of 25 fps, whatever the driver's rate was."""
    motion = synthetic.sample_motion(7, 6, "look")
    points = synthetic.landmarks_of(synthetic.sample_identity(7), motion, 200)
    times = seconds * np.array([0, 1, 2, 4, 5, 6.0])
    track = LandmarkTrack(points, times, 200, 200, 1 / seconds, "stranger.mp4")
    track.save(tmp_path / "track.npz")
    animate.drive(head, tmp_path / "track.npz", tmp_path / "out.webp")
    with Image.open(tmp_path / "out.webp") as picture:
        shown = []
        for i in range(picture.n_frames):
            picture.seek(i)
            picture.load()
            shown.append(picture.info["duration"] / 1000)
    np.testing.assert_allclose(shown, seconds * np.array([1, 1, 2, 1, 1, 1]))
