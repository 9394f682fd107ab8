"""Many people: each as alone, a folder of them to the end, and again only what is missing."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from data_pipeline.errors import InputError
from data_pipeline.people import load_people, people_from_folder
from flax_heads import folder_of_people
from flax_heads.folder_of_people import fine_tune_folder
from flax_heads.many_people import fine_tune_many
from flax_heads.meta_model import fine_tune
from flax_heads.talking_head import TalkingHead
from tests import tiny


@pytest.fixture(scope="module")
def model():
    """The smallest model, as if it had been loaded; it learns in short steps.

    Long ones make of rounding, where a second moment is nearly zero, another head.
    """
    rates = dict.fromkeys(
        ("generator_learning_rate", "discriminator_learning_rate"), 2e-4
    )
    rule = {"num_iterations": 4, "check_every": 1, "patience": 1}
    return tiny.make_model(shallow=True, augmentations=2, **rule, **rates)


def _alone(model, person, **options):
    return fine_tune(model, person.photos, person.landmarks, **options)


def _assert_same_head(a, b):
    # Another order of summing, which Adam enlarges where a second moment is nearly zero.
    tiny.assert_leaves_near(a.params, b.params, 1e-3)
    tiny.assert_leaves_near(a.psi, b.psi, 1e-3)
    assert a.style == b.style
    measured = {"held_out_l1": 0, "checks": 0}
    assert a.history | measured == b.history | measured
    for name in measured.keys() & a.history.keys():
        np.testing.assert_allclose(a.history[name], b.history[name], atol=1e-3)
    np.testing.assert_array_equal(a.photos, b.photos)
    frames = [np.stack(list(head.animate(a.landmarks))).astype(int) for head in (a, b)]
    assert np.abs(frames[0] - frames[1]).max() <= 2  # of 255


def test_a_person_among_others_becomes_the_same_head_as_alone(model):
    """Side by side on each of four devices: own Adam, averages, norms and warps."""
    assert jax.local_device_count() == 4
    # One group of eight, of whom five are copies.
    people = {f"p{seed}": tiny.make_person(seed, 1) for seed in range(3)}
    heads = dict(fine_tune_many(model, people.items(), seed=3, per_device=2))
    assert set(heads) == set(people)
    for name, person in people.items():
        _assert_same_head(heads[name], _alone(model, person, seed=3))
    assert np.abs(heads["p1"].psi - heads["p2"].psi).max() > 1e-3  # not one for all


def test_on_the_cpu_people_come_one_after_the_other(model):
    people = {f"p{seed}": tiny.make_person(seed, 1) for seed in range(2)}
    heads = list(fine_tune_many(model, people.items()))
    assert [name for name, _ in heads] == ["p0", "p1"]
    for name, head in heads:
        assert tiny.largest_change(head.params, _alone(model, people[name]).params) == 0


def test_people_are_grouped_by_t(model):
    people = {f"p{seed}": tiny.make_person(seed, 1 + seed % 2) for seed in range(7)}
    forward = dict(num_iterations=0)  # nothing is trained: quick to compile
    heads = dict(fine_tune_many(model, people.items(), per_device=1, **forward))
    assert set(heads) == set(people)
    for name in ("p0", "p1", "p6"):
        assert len(heads[name].photos) == len(people[name].photos)
        alone = _alone(model, people[name], **forward)
        np.testing.assert_allclose(heads[name].psi, alone.psi, 1e-4, 1e-5)


def test_an_error_of_the_source_reaches_the_caller(model):
    def people():
        yield "p0", tiny.make_person(0, 1)
        raise InputError("the disk is gone")

    made = []
    with pytest.raises(InputError, match="the disk is gone"):
        made.extend(fine_tune_many(model, people(), num_iterations=0))
    assert len(made) == 1


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two people with photos that can be used, and four entries without."""
    pytest.importorskip("dlib")
    data = pytest.importorskip("skimage.data")
    folder = tmp_path_factory.mktemp("photos")
    for name in ("anna", "broken", "empty"):
        (folder / name).mkdir()
    astronaut = Image.fromarray(data.astronaut())
    astronaut.save(folder / "anna" / "1.png")
    (folder / "anna" / "2.png").write_bytes(b"no picture")
    astronaut.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "anna" / "3.png")
    astronaut.save(folder / "bert.png")
    (folder / "broken" / "1.png").write_bytes(b"no picture")
    Image.fromarray(data.coffee()).save(folder / "coffee.png")
    (folder / ".DS_Store").write_bytes(b"")
    return folder


def test_a_folder_of_people_is_read_to_its_end(photos):
    people = people_from_folder(photos)
    assert list(people) == ["anna", "bert", "broken", "coffee", "empty"]
    loaded = {who.name: who for who in load_people(people, 32, num_workers=1)}
    assert len(loaded["anna"].person.photos) == 2
    assert "2.png" in loaded["anna"].problems[0]
    assert loaded["bert"].person.landmarks.shape == (1, 68, 2)
    assert not loaded["bert"].problems
    for name, why in {"broken": "1.png", "coffee": "no face", "empty": "empty"}.items():
        assert loaded[name].person is None and why in loaded[name].problems[0]
    capped = load_people({"anna": people["anna"]}, 32, max_photos=1, num_workers=0)
    assert next(capped).person.sources == ["1.png"]


def test_folders_that_name_nobody_or_one_twice_are_refused(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        people_from_folder(tmp_path / "gone")
    with pytest.raises(InputError, match="nobody in it"):
        people_from_folder(tmp_path)
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna.png").write_bytes(b"")
    with pytest.raises(InputError, match="both be called 'anna'"):
        people_from_folder(tmp_path)


def test_a_folder_becomes_heads_and_again_only_what_is_missing(model, photos, tmp_path):
    said = {}

    def run(**options):
        said.clear()
        options = dict(num_iterations=0, max_photos=1, num_workers=0) | options
        return fine_tune_folder(
            model, photos, tmp_path / "heads", on_person=said.__setitem__, **options
        )

    first = run()
    assert sorted(first.made) == ["anna", "bert"] and not first.kept
    assert set(first.skipped) == {"broken", "coffee", "empty"}
    made = "made, 0 iterations"
    assert said == {"anna": made, "bert": made} | first.skipped
    heads = tmp_path / "heads"
    assert sorted(path.name for path in heads.iterdir()) == ["anna", "bert"]
    assert TalkingHead.load(heads / "bert").photos.shape == (1, 16, 16, 3)

    # As a run leaves it that is killed while it saves: the description comes last.
    (heads / "bert" / "head.json").unlink()
    before = (heads / "anna" / "head.json").stat().st_mtime_ns
    again = run()
    assert again.made == ["bert"] and again.kept == ["anna"]
    assert (heads / "anna" / "head.json").stat().st_mtime_ns == before
    assert TalkingHead.load(heads / "bert").history["photos"] == 1

    other = run(seed=1)
    assert not other.made and "seed 0, not 1" in other.skipped["anna"]
    more = run(max_photos=2)
    assert not more.made and "of other photos" in more.skipped["anna"]


def test_processes_share_the_people(model, photos, tmp_path, monkeypatch):
    """Two processes make every head once between them."""
    options = dict(num_iterations=0, max_photos=1, num_workers=0)
    monkeypatch.setattr(folder_of_people.jax, "process_count", lambda: 2)
    made = []
    for index in range(2):
        monkeypatch.setattr(folder_of_people.jax, "process_index", lambda i=index: i)
        made.append(fine_tune_folder(model, photos, tmp_path, **options).made)
    assert sorted(made) == [["anna"], ["bert"]]


def test_numbers_that_are_not_finite_are_no_head(model, photos, tmp_path):
    broken = dataclasses.replace(
        model, params=jax.tree.map(lambda x: x * np.nan, model.params)
    )
    result = fine_tune_folder(
        broken, photos, tmp_path, num_iterations=0, max_photos=1, num_workers=0
    )
    assert not result.made and "finite" in result.skipped["anna"]
    assert not any(tmp_path.iterdir())


def test_a_damaged_finished_head_is_named(model, photos, tmp_path):
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / "head.json").write_text(json.dumps({"history": 3}))
    result = fine_tune_folder(
        model, photos, tmp_path, num_iterations=0, max_photos=1, num_workers=0
    )
    assert "damaged" in result.skipped["anna"] and result.made == ["bert"]
