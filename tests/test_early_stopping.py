"""Fine-tuning ends by its rule, takes the best that it checked, and says so."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.augment import augment_all, augment_held_out
from data_pipeline.errors import InputError
from data_pipeline.people import Person
from data_pipeline.raster import draw_rasters
from flax_heads import early_stopping
from flax_heads.early_stopping import Best, Learned, Rule, learn
from flax_heads.meta_model import choose_pictures, fine_tune
from tests import tiny

PERSON = tiny.make_person(0, 1)
SIX = tiny.make_person(1, 6)  # five to train on, as many as one photo and four warps


@functools.cache
def _networks():
    return tiny.make_model(
        shallow=True, num_iterations=12, check_every=2, patience=2, augmentations=4
    )


def _model(**fine_tune):
    """The same networks under another rule; compiled once for all tests."""
    config = _networks().config.copy_and_resolve_references()
    config.fine_tune.update(fine_tune)
    model = dataclasses.replace(_networks(), config=config)
    for name in ("compiled_start", "compiled_advance"):
        model.__dict__[name] = getattr(_networks(), name)
    return model


def _with_first(photo):
    """Six photos of whom the first, which is the one kept aside, is another."""
    photos = SIX.photos.copy()
    photos[0] = photo
    return Person(photos, SIX.landmarks, SIX.sources)


def _head(model, person=PERSON, **options):
    return fine_tune(model, person.photos, person.landmarks, **options)


def _reference(l1: list[float], rule: Rule) -> tuple[int, int]:
    """(iterations run, the best one) in plain Python."""
    best, waited = 0, 0
    for i, value in enumerate(l1[1:], start=1):
        best, waited = (i, 0) if value < l1[best] else (best, waited + 1)
        if waited == rule.patience:
            break
    steps = [min(n * rule.check_every, rule.num_iterations) for n in (i, best)]
    return steps[0], steps[1]


@pytest.mark.parametrize("rule", [Rule(12, 2, 2), Rule(11, 2, 1), Rule(3, 5, 1)])
def test_everyone_of_a_group_stops_as_alone(rule):
    """Random courses of the held-out L1, side by side, against a loop for each."""
    steps = [*range(0, rule.num_iterations, rule.check_every), rule.num_iterations]
    courses = np.random.default_rng(0).random((len(steps), 50)).astype(np.float32)
    zero = jnp.zeros(50, jnp.int32)
    best = Best(zero, zero, zero + jnp.inf, zero, {})
    keep = jax.jit(jax.vmap(functools.partial(early_stopping.keep_better, rule=rule)))
    for n, l1 in zip(steps, courses):
        # Whoever has stopped goes on beside the others, and not finite at that.
        best = keep(best, Best(zero + n, zero + n, jnp.asarray(l1), zero + n, {}))
    learned = Learned(best, list(zip(steps, courses)))
    for i, course in enumerate(courses.T):
        found = early_stopping.outcome(rule, learned, i)
        run, best_step = _reference(list(course), rule)
        assert (found["iterations_run"], found["best_iteration"]) == (run, best_step)
        assert int(best.ema[i]) == best_step  # the parameters are of that iteration
        assert found.get("not_finite", 0) == best_step  # and no later ones
        assert found["checks"][-1][0] == run


def test_numbers_that_are_not_finite_are_never_the_best():
    one = jnp.zeros((), jnp.int32)
    best = Best(one, one, one + jnp.inf, one, {})
    for n, l1 in ((0, 0.5), (2, jnp.nan), (4, jnp.inf)):
        now = Best(one + n, one, jnp.float32(l1), one + n, {})
        best = early_stopping.keep_better(best, now, Rule(8, 2, 3))
    assert (int(best.step), float(best.l1)) == (0, 0.5)
    checks = [(0, np.float32(0.5)), (2, np.float32(np.nan))]
    found = early_stopping.outcome(Rule(8, 2, 3), Learned(best, checks))
    assert json.loads(json.dumps(found, allow_nan=False))["checks"][1] == [2, None]


def test_iterations_that_were_not_finite_are_told():
    zero = np.zeros(2, np.int32)
    learned = Learned(Best(zero + 4, np.array([0, 3]), zero, zero, {}), [])
    first, second = (
        early_stopping.outcome(Rule(4), learned, person) for person in (0, 1)
    )
    assert first == {"iterations_run": 4}
    assert second == {"iterations_run": 4, "not_finite": 3}
    line = early_stopping.describe({"iterations": 4} | second)
    assert line == "4 iterations; 3 were not finite and changed nothing"


def test_over_fitting_leaves_the_best_and_not_the_last():
    """A dark photo kept aside: frames come nearer to it at first, then go away."""
    model, person = _model(num_iterations=60, augmentations=0), _with_first(64)
    head = _head(model, person)
    history = head.history
    run, best = history["iterations_run"], history["best_iteration"]
    checks = dict(map(tuple, history["checks"]))
    assert best > 0 and run == best + 4 < 60 and list(checks) == [*range(0, run + 1, 2)]
    assert history["held_out_l1"] == checks[best] == min(checks.values()) < checks[run]
    assert early_stopping.describe(history) == (
        f"stopped after {run} of 60 iterations; best at {best} "
        f"(held-out L1 {checks[best]:.4f})"
    )
    until_then = _head(_model(num_iterations=best, augmentations=0), person)
    assert tiny.largest_change(head.params, until_then.params) == 0
    # What was measured is what the head draws, but for the rounding of its pixels.
    drawn = head.draw(draw_rasters(person.landmarks[:1], tiny.SIZE, model.style))
    l1 = np.abs(drawn - np.float32(person.photos[:1])).mean() / 255
    assert l1 == pytest.approx(checks[best], abs=2e-4)


def test_what_only_gets_worse_ends_where_it_began():
    model, person = _model(augmentations=0), _with_first(255 - SIX.photos[0])
    head = _head(model, person)
    assert head.history["best_iteration"] == 0 and head.history["iterations_run"] == 4
    forward = _head(model, person, num_iterations=0)
    assert tiny.largest_change(head.params, forward.params) == 0


def test_while_it_gets_better_it_runs_to_the_bound():
    model, seen = _model(), []
    head = _head(model, on_progress=lambda n, _: seen.append(n))
    assert head.history["iterations_run"] == head.history["best_iteration"] == 12
    assert early_stopping.describe(head.history).startswith("ran all 12 iterations; ")
    assert seen == sorted(seen) and seen[-1] == 12
    again, fixed = _head(model), _head(model, num_iterations=12)
    assert again.history == head.history
    assert tiny.largest_change(again.params, head.params) == 0
    # The checks have no part in the training.
    assert tiny.largest_change(fixed.params, head.params) == 0
    assert model.check._cache_size() == 1  # one program for all checks


def test_a_fixed_number_is_exactly_that_number():
    by_rule = _head(_model(check_every=0, num_iterations=5))
    by_hand = _head(_model(), num_iterations=5)
    assert tiny.largest_change(by_rule.params, by_hand.params) == 0
    for head in (by_rule, by_hand):
        assert head.history["iterations_run"] == head.history["iterations"] == 5
        assert "checks" not in head.history
        assert early_stopping.describe(head.history) == "5 iterations"


def test_one_program_between_checks_gives_the_same_head(monkeypatch):
    """As on accelerators: one program compiled, though 10 is no multiple of 4."""
    model = tiny.make_model(
        shallow=True,
        num_iterations=10,
        check_every=4,
        patience=3,
        augmentations=4,
        generator_learning_rate=2e-4,
        discriminator_learning_rate=2e-4,
    )
    host = _head(model)
    monkeypatch.setattr(early_stopping, "prefers_one_program", lambda: True)
    advance = model.compiled_advance
    counts = []

    def counted(*arguments, count):
        counts.append(count)
        return advance(*arguments, count=count)

    monkeypatch.setitem(model.__dict__, "compiled_advance", counted)
    device = _head(model)
    assert counts == [2] * 5
    expected, found = (np.array(h.history["checks"]) for h in (host, device))
    assert found[:, 0].tolist() == [0, 4, 8, 10]
    # Compiled apart; at this rate Adam hardly enlarges the other rounding.
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def _as_set(pictures):
    return {picture.tobytes() for picture in pictures}


@pytest.mark.parametrize("person", [PERSON, SIX, tiny.make_person(2, 11)])
def test_warps_that_are_checked_are_not_trained_on(person):
    model = _model()
    photos, landmarks = person.photos, person.landmarks
    pictures = choose_pictures(model, photos, landmarks, model.rule(), seed=3)
    assert len(_as_set(pictures.held_out)) == len(pictures.held_out_rasters) == 8
    assert not _as_set(pictures.held_out) & _as_set(pictures.photos)
    assert not _as_set(pictures.held_out_rasters) & _as_set(pictures.rasters)
    # What is trained on is the same with and without checks.
    trained = augment_all(photos, landmarks, 4, seed=3)[0]
    np.testing.assert_array_equal(pictures.photos, trained)
    fixed = choose_pictures(model, photos, landmarks, model.rule(4), seed=3)
    assert not len(fixed.held_out) and not len(fixed.held_out_rasters)


def test_held_out_warps_are_spread_over_the_photos():
    photos = np.stack([np.full((16, 16, 3), 10 * t, np.uint8) for t in range(20)])
    landmarks = np.repeat(PERSON.landmarks, 20, 0)
    made, points = augment_held_out(photos, landmarks, 8, seed=0)
    assert len(set(made[:, 8, 8, 0])) == 8 and points.shape == (8, 68, 2)


def test_without_warps_one_photo_of_three_is_kept_aside():
    model = _model(augmentations=0)
    few = SIX.photos[:3], SIX.landmarks[:3]
    pictures = choose_pictures(model, *few, model.rule(), seed=4)
    assert len(pictures.photos) == len(pictures.rasters) == 2
    np.testing.assert_array_equal(pictures.held_out[0], SIX.photos[1])
    assert _as_set(pictures.photos) == _as_set(SIX.photos[[0, 2]])


def test_where_nothing_can_be_kept_aside_the_number_is_fixed():
    model = _model(augmentations=0)
    two = SIX.photos[:2], SIX.landmarks[:2]
    pictures = choose_pictures(model, *two, model.rule(), seed=0)
    assert len(pictures.photos) == 2 and not len(pictures.held_out)
    start, advance = model.compiled_start, model.compiled_advance
    one = choose_pictures(_model(), PERSON.photos, PERSON.landmarks, Rule(5), seed=0)
    state = start(*model.learned, PERSON.photos, one.rasters[:1], key=jax.random.key(0))
    learned = learn(advance, model.check, state, one, model.rule(), seed=0)
    assert int(learned.best.step) == 12 and not learned.checks
    assert early_stopping.outcome(model.rule(), learned) == {"iterations_run": 12}


def test_what_was_asked_for_does_not_depend_on_the_outcome():
    asked = _model().rule().asked()
    assert asked["iterations"] == 12
    assert asked != _model().rule(12).asked()
    assert asked != Rule(12, 2, 3).asked() and asked != Rule(13, 2, 2).asked()
    # Patience means nothing where nothing is checked.
    assert Rule(12, 0, 2).asked() == Rule(12, 0, 3).asked()


@pytest.mark.parametrize("fields", [(-1,), (4, -1), (4, 1, 0)])
def test_rules_that_cannot_be_followed_are_refused(fields):
    with pytest.raises(InputError, match="expected at least 0, 0 and 1"):
        Rule(*fields)


def test_feed_forward_heads_need_no_file_of_the_content_loss(monkeypatch, tmp_path):
    """A model that was trained with VGG's weights, where they are not."""
    monkeypatch.setenv("FLAX_HEADS_WEIGHTS", str(tmp_path))
    config = _networks().config.copy_and_resolve_references()
    config.perceptual.vgg19, config.vgg19.path = 1.0, "gone/vgg19-d01eb7cb.pth"
    model = dataclasses.replace(_networks(), config=config)
    head = fine_tune(model, PERSON.photos, PERSON.landmarks, num_iterations=0)
    assert head.history["iterations_run"] == 0
    with pytest.raises(
        InputError, match=r"gone/vgg19-d01eb7cb\.pth and .*no such file"
    ):
        fine_tune(model, PERSON.photos, PERSON.landmarks, num_iterations=1)
    # A folder of this machine, which the environment names, stands in.
    (tmp_path / "vgg19-d01eb7cb.pth").write_bytes(b"read")
    with pytest.raises(InputError, match=f"{tmp_path}/vgg19-d01eb7cb.pth: "):
        fine_tune(model, PERSON.photos, PERSON.landmarks, num_iterations=1)
