"""Few-shot learning of one person, and the talking head that comes of it."""

import dataclasses
import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from PIL import Image

from data_pipeline.errors import InputError
from data_pipeline.raster import RasterStyle
from flax_heads import fine_tuning, metrics, spectral
from flax_heads.meta_learning import embed, project
from flax_heads.meta_model import fine_tune
from flax_heads.objectives import LossWeights, PerceptualNetwork, to_unit_range
from flax_heads.state import Adam
from flax_heads.talking_head import TalkingHead, check_output
from tests import tiny

ADAM = Adam(2e-3)


@pytest.fixture(scope="module")
def start():
    """(meta state, photos, rasters, personalised state)."""
    state = tiny.new_state()
    batch = tiny.make_batch(batch_size=1, num_support=3)
    photos, rasters = batch["support_frames"][0], batch["support_rasters"][0]
    return state, photos, rasters, _personalize(state, photos, rasters)


def _personalize(state, photos, rasters, **options):
    start = functools.partial(
        fine_tuning.personalize, tiny.NETWORKS, key=jax.random.key(0), **options
    )
    return jax.jit(start, static_argnums=(6, 7))(
        state.ema,
        state.generator.vectors,
        state.discriminator.params,
        state.discriminator.vectors,
        photos,
        rasters,
        ADAM,
        ADAM,
    )


@functools.cache
def _advance(weights=tiny.WEIGHTS, batch_size=2):
    step = fine_tuning.make_fine_tune_step(tiny.NETWORKS, ADAM, ADAM, weights)
    return fine_tuning.compile_advance(fine_tuning.make_advance(step, batch_size))


def test_perceptual_parameters_are_arguments_of_the_program(start):
    *_, photos, rasters, state = start
    net = PerceptualNetwork("toy", 1.0, lambda w, x: [x @ w], jnp.eye(3, 77))
    step = fine_tuning.make_fine_tune_step(
        tiny.NETWORKS, ADAM, ADAM, tiny.WEIGHTS, [net]
    )
    advance = fine_tuning.compile_advance(fine_tuning.make_advance(step, 2))
    lowered = advance.func.lower(
        *advance.args, state, photos, rasters, jax.random.key(0), count=2
    )
    assert re.search(r"%arg\d+: tensor<3x77xf32>", lowered.as_text())
    assert not re.search(r"constant.*tensor<3x77xf32>", lowered.as_text())


def _copy(state):
    return jax.tree.map(np.array, state)


def _without_null_biases(params):
    """Without those of G that the next norm takes away.

    Their gradient is zero but for rounding, and Adam makes steps of that.
    """
    flat = traverse_util.flatten_dict(params)
    return {
        path: leaf
        for path, leaf in flat.items()
        if path[-2:] != ("skip", "bias") and path[-3:] != ("down1", "conv2", "bias")
    }


def _drawn(state, rasters):
    params = spectral.normalize(state.ema, state.generator.vectors)
    psi = jnp.broadcast_to(params["psi"], (len(rasters), *params["psi"].shape))
    return tiny.NETWORKS.generator.apply(
        {"params": params["generator"]}, to_unit_range(rasters), psi
    )


def test_starts_from_the_embedding(start):
    """psi' = P e-hat and w' = w0 + e-hat (section 3.3)."""
    meta, photos, rasters, person = start
    params = spectral.normalize(meta.ema, meta.generator.vectors)
    frames = (to_unit_range(photos)[None], to_unit_range(rasters)[None])
    embedding = embed(tiny.NETWORKS, params, *frames)
    psi = project(tiny.NETWORKS, params, embedding)
    np.testing.assert_allclose(person.generator.params["psi"], psi[0], 1e-4, 1e-5)
    np.testing.assert_allclose(
        person.discriminator.params["w0"],
        meta.discriminator.params["w0"] + embedding[0],
        rtol=1e-4,
        atol=1e-5,
    )
    assert set(person.generator.params) == {"generator", "psi"}  # E and P are dropped


def test_learns_the_photos_and_moves_psi_and_w(start):
    _, photos, rasters, person = start
    first, seen = _copy(person), []
    after = fine_tuning.run_fine_tuning(
        _advance(),
        _copy(person),
        photos,
        rasters,
        num_iterations=60,
        seed=0,
        on_progress=lambda done, metrics: seen.append((done, metrics["l1"])),
    )
    assert seen[-1][0] == 60 and seen[-1][1] < 0.7 * seen[0][1]
    psi = np.abs(after.generator.params["psi"] - first.generator.params["psi"])
    w = np.abs(after.discriminator.params["w0"] - first.discriminator.params["w0"])
    assert psi.max() > 1e-3 and w.max() > 1e-3


def test_a_step_that_is_not_finite_changes_nothing(start):
    _, photos, rasters, person = start
    spoilt = _copy(person)
    spoilt.discriminator.params["b"] = np.full_like(
        spoilt.discriminator.params["b"], np.nan
    )
    # A copy: what is passed in is donated.
    after, _ = _advance()(_copy(spoilt), photos, rasters, jax.random.key(0))
    expected = spoilt.replace(step=np.int32(1), skipped=np.int32(1))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(after), expected)


def test_batches_are_at_most_t(start):
    _, photos, rasters, person = start
    advance = _advance(batch_size=8)
    state, metrics = advance(_copy(person), photos[:1], rasters[:1], jax.random.key(0))
    assert int(state.step) == 1 and np.isfinite(metrics["l1"])


def test_same_seed_same_person(start):
    _, photos, rasters, person = start
    advance = _advance()
    runs = [
        fine_tuning.run_fine_tuning(
            advance, _copy(person), photos, rasters, num_iterations=3, seed=seed
        )
        for seed in (4, 4, 5)
    ]
    assert tiny.largest_change(runs[0].ema, runs[1].ema) == 0
    assert tiny.largest_change(runs[0].ema, runs[2].ema) > 0


def test_one_program_of_many_iterations_gives_the_same_person(start):
    """`lax.scan` on accelerators, the host's loop on the CPU: the numbers agree."""
    _, photos, rasters, person = start
    advance, seen = _advance(), []
    host, device = (
        fine_tuning.run_fine_tuning(
            advance,
            _copy(person),
            photos,
            rasters,
            num_iterations=6,
            seed=1,
            at_once=n,
            on_progress=lambda done, metrics: seen.append((done, metrics["l1"])),
        )
        for n in (1, 3)
    )
    assert int(device.step) == 6
    for ours, theirs in (
        (_without_null_biases(host.ema), _without_null_biases(device.ema)),
        (host.generator.vectors, device.generator.vectors),
        (host.discriminator.params, device.discriminator.params),
    ):
        tiny.assert_leaves_near(ours, theirs, relative=1e-5, absolute=1e-5)
    np.testing.assert_allclose(
        *(_drawn(state, rasters) for state in (host, device)), atol=1e-4
    )
    assert [done for done, _ in seen] == [5, 6, 3, 6]
    assert seen[1][1] == pytest.approx(seen[-1][1], rel=1e-4)


def test_one_program_runs_equal_parts_on_accelerators_only(monkeypatch):
    assert fine_tuning.iterations_at_once(400) == 1  # the tests' backend is the CPU
    monkeypatch.setattr(fine_tuning, "prefers_one_program", lambda: True)
    at_once = {n: fine_tuning.iterations_at_once(n) for n in (0, 1, 7, 40, 85, 401)}
    assert at_once == {0: 1, 1: 1, 7: 1, 40: 4, 85: 17, 401: 401}
    with pytest.raises(ValueError, match="5 iterations in parts of 2"):
        fine_tuning.run_fine_tuning(
            _advance(), None, [], [], num_iterations=5, seed=0, at_once=2
        )


def test_random_starts_replace_psi_or_w_and_nothing_else(start):
    """Two ablations of the paper: its person-specific parts not from the embedding."""
    meta, photos, rasters, person = start
    psi, w = person.generator.params["psi"], person.discriminator.params["w0"]
    noise = _personalize(meta, photos, rasters, random_psi=True)
    assert np.std(noise.generator.params["psi"]) == pytest.approx(1, rel=0.3)
    assert np.abs(noise.generator.params["psi"] - psi).max() > 0.5
    np.testing.assert_array_equal(noise.discriminator.params["w0"], w)
    other_w = _personalize(meta, photos, rasters, random_w=True)
    np.testing.assert_array_equal(other_w.generator.params["psi"], psi)
    drawn = other_w.discriminator.params["w0"] - meta.discriminator.params["w0"]
    assert np.std(drawn) > 0.01 and np.abs(drawn).max() <= 0.1


def test_without_adversarial_terms_the_discriminator_rests(start):
    """The paper's ablation: no L'_ADV. The content loss alone moves G and psi'."""
    _, photos, rasters, person = start
    weights = LossWeights(pixel=10.0, adversarial=0.0, feature_matching=0.0)
    before = _copy(person)
    after, metrics = _advance(weights)(before, photos, rasters, jax.random.key(0))
    assert set(metrics) == {"loss/content", "l1"}
    assert tiny.largest_change(after.discriminator, person.discriminator) == 0
    assert tiny.largest_change(after.generator.params, person.generator.params) > 0


@pytest.fixture
def head(start):
    _, photos, _, person = start
    generator = tiny.NETWORKS.generator
    attributes = {
        f.name: getattr(generator, f.name)
        for f in dataclasses.fields(generator)
        if f.name not in ("parent", "name", "dtype")
    }
    landmarks = np.random.default_rng(0).uniform(2, 14, (3, 68, 2)).astype(np.float32)
    return TalkingHead(
        generator=attributes | {"dtype": "float32"},
        params=jax.device_get(person.ema["generator"]),
        psi=np.asarray(person.ema["psi"]),
        size=tiny.SIZE,
        style=RasterStyle(),
        landmarks=landmarks,
        photos=np.asarray(photos),
        history={"model": "test"},
    )


def test_head_saves_and_loads_bit_for_bit(head, tmp_path):
    head.save(tmp_path / "head")
    loaded = TalkingHead.load(tmp_path / "head")
    a = np.stack(list(head.animate(head.landmarks)))
    b = np.stack(list(loaded.animate(head.landmarks)))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(loaded.photos, head.photos)
    assert loaded.history == head.history and loaded.style == head.style


def test_animate_streams_any_number_of_frames(head):
    """Frames do not depend on how they fall into batches."""
    many = np.concatenate([head.landmarks] * 4)  # 12: one batch of 8, and 4
    frames = list(head.animate(iter(many)))
    assert len(frames) == 12
    np.testing.assert_array_equal(frames[0], frames[9])
    assert (frames[0] != frames[1]).any()


def test_animate_reads_its_driver_as_it_goes(head):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield head.landmarks[0]

    frames = head.animate(endless())
    for _ in range(20):
        next(frames)
    assert len(taken) <= 32  # a batch on the device, one in hand


def test_saving_again_replaces_the_head_and_nothing_else(head, tmp_path):
    folder = tmp_path / "heads" / "anna"
    head.save(folder)
    (folder / "notes.txt").write_text("keep me")
    one_photo = dataclasses.replace(
        head, photos=head.photos[:1], landmarks=head.landmarks[:1], history={"n": 2}
    )
    one_photo.save(folder)
    loaded = TalkingHead.load(folder)
    assert loaded.history == {"n": 2} and len(loaded.photos) == 1
    assert (folder / "notes.txt").read_text() == "keep me"
    assert [p.name for p in folder.parent.iterdir()] == ["anna"]  # nothing half-made


def test_a_head_that_cannot_be_written_leaves_nothing(head, tmp_path):
    unwritable = dataclasses.replace(head, history={"not JSON": object()})
    with pytest.raises(TypeError):
        unwritable.save(tmp_path / "heads" / "anna")
    assert list((tmp_path / "heads").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        head.save(tmp_path / "file" / "anna")


def test_a_person_is_learned_as_well_in_bfloat16():
    model = tiny.make_model(shallow=True)
    half = model.with_dtype("bfloat16")
    person = tiny.make_person(3, 4)

    def learned(model, num_iterations):
        head = fine_tune(
            model, person.photos, person.landmarks, num_iterations=num_iterations
        )
        drawn = np.stack(list(head.animate(person.landmarks)))
        return head, np.abs(drawn.astype(float) - person.photos).mean()

    untrained = learned(model, 0)[1]
    (head, exact), (other, near) = learned(model, 100), learned(half, 100)
    assert exact < 0.9 * untrained
    assert near == pytest.approx(exact, rel=0.05)
    assert [h.generator["dtype"] for h in (head, other)] == ["float32", "bfloat16"]
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(other.params))
    assert not np.array_equal(head.psi, other.psi)  # it did compute otherwise
    assert model.config.model.dtype == "float32"  # as it was


def test_bfloat16_draws_nearly_the_same(start, head):
    """Norms are float32, so the frames stay close. The weights are cast once."""
    _, photos, rasters, person = start
    tuned = fine_tuning.run_fine_tuning(
        _advance(), _copy(person), photos, rasters, num_iterations=40, seed=0
    )
    params = jax.jit(spectral.normalize)(tuned.ema, tuned.generator.vectors)
    learned = dataclasses.replace(
        head, params=jax.device_get(params["generator"]), psi=np.array(params["psi"])
    )
    half = learned.with_dtype("bfloat16")
    exact, near = learned.draw(rasters), half.draw(rasters)
    assert np.std(exact) > 10  # it draws something
    assert float(metrics.ssim(exact, near).min()) >= 0.99
    assert np.abs(exact.astype(int) - near).max() > 0  # and it does compute otherwise
    _, cast, psi = half.on_device
    assert all(
        x.dtype == ("bfloat16" if x.ndim > 1 else "float32")
        for x in (psi, *jax.tree.leaves(cast))
    )
    assert all(x.dtype == "float32" for x in jax.tree.leaves(half.params))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "head.json").unlink(),
        lambda folder: (folder / "head.json").write_text("{"),
        lambda folder: (folder / "head.json").write_text('{"format": 99}'),
        lambda folder: (folder / "weights.npz").write_bytes(b"PK\x03\x04"),
        lambda folder: (folder / "weights.npz").unlink(),
        lambda folder: (folder / "photo_000.png").write_bytes(b"no picture"),
        lambda folder: np.savez(folder / "weights.npz", psi=np.array([{}], object)),
    ],
)
def test_damaged_head_is_one_clear_line(head, tmp_path, damage):
    head.save(tmp_path / "head")
    damage(tmp_path / "head")
    with pytest.raises(InputError) as error:
        TalkingHead.load(tmp_path / "head")
    assert str(tmp_path / "head") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_photo_may_not_ask_for_more_memory_than_the_heads_size(head, tmp_path):
    head.save(tmp_path / "head")
    Image.new("RGB", (5000, 5000)).save(tmp_path / "head" / "photo_001.png")
    with pytest.raises(
        InputError, match=r"photo_001\.png: 5000x5000 pixels is more than"
    ):
        TalkingHead.load(tmp_path / "head")


def test_a_head_of_fewer_photos_leaves_none_of_those_before(head, tmp_path):
    head.save(tmp_path / "head")
    (tmp_path / "head" / "photo_900.png").write_bytes(b"somebody's")
    one = dataclasses.replace(
        head, photos=head.photos[:1], landmarks=head.landmarks[:1]
    )
    one.save(tmp_path / "head")
    names = sorted(p.name for p in (tmp_path / "head").glob("photo_*"))
    assert names == ["photo_000.png", "photo_900.png"]
    assert len(TalkingHead.load(tmp_path / "head").photos) == 1


def test_a_head_gone_astray_does_not_replace_a_good_one(head, tmp_path):
    head.save(tmp_path / "head")
    mostly_skipped = {"iterations_run": 5, "not_finite": 3}
    assert dataclasses.replace(
        head, history=mostly_skipped | {"iterations_run": 6}
    ).is_finite()
    for change in ({"psi": head.psi * np.nan}, {"history": mostly_skipped}):
        astray = dataclasses.replace(head, **change)
        with pytest.raises(InputError, match="did not stay finite; learn in float32"):
            astray.save(tmp_path / "head")
    np.testing.assert_array_equal(TalkingHead.load(tmp_path / "head").psi, head.psi)


@pytest.mark.parametrize("what", ["a file", "under a file", "photos"])
def test_where_no_head_can_go_is_told_before_it_is_learned(head, tmp_path, what):
    output = tmp_path / "output"
    if what == "photos":
        output.mkdir()
        (output / "photo_000.png").write_bytes(b"somebody's")
    else:
        output.write_bytes(b"")
        output = output / "head" if what == "under a file" else output
    for attempt in (check_output, head.save):
        with pytest.raises(InputError, match="name another folder"):
            attempt(output)
    assert list(tmp_path.rglob("*.part")) == []


def test_head_folder_holds_no_pickle(head, tmp_path):
    head.save(tmp_path / "head")
    with np.load(tmp_path / "head" / "weights.npz", allow_pickle=False) as stored:
        assert all(stored[name].dtype != object for name in stored.files)
    json.loads((tmp_path / "head" / "head.json").read_text())
