"""The evaluation: its protocol, its report, and that truth scores as truth."""

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("dlib")

from data_pipeline import archive, synthetic
from data_pipeline.errors import InputError
from flax_heads import evaluation_data, evaluation_report, score_files, scores

SETTINGS = {
    "mode": "self",
    "model": {"path": "runs/a", "step": 7},
    "data": {"videos": ["v0", "v1"], "identities": ["a", "b"], "drivers": None},
    "size": 64,
    "shots": [1, 8],
    "frames_per_video": 4,
    "corrections": None,
    "code": [{"source": "abc"}],
}


@pytest.fixture(scope="module")
def people():
    return archive.render_archive(2, 12, 128, seed=3, num_workers=0)


@pytest.fixture(scope="module")
def judges():
    return scores.make_judges()


def test_truth_scores_as_truth(judges):
    motion = synthetic.sample_motion(4, 4, "talk")
    frames, landmarks = synthetic.render(synthetic.sample_identity(4), motion, 192)
    truth = scores.judge_truth(frames, landmarks, judges)
    values, features, _ = scores.score_video(frames, truth, judges)
    assert (values["l1"] == 0).all() and (values["flicker"] == 0).all()
    np.testing.assert_allclose(values["ssim"], 1, atol=1e-5)
    np.testing.assert_allclose(values["ms_ssim"], 1, atol=1e-5)
    np.testing.assert_allclose(values["csim_dlib"], 1, atol=1e-5)
    for name in ("no_face", "nme", "jitter"):  # dlib's points, not the renderer's
        assert (values[name] == 0).all()


def test_another_pose_and_another_person_score_worse(judges):
    identity, other = (synthetic.sample_identity(i) for i in (4, 11))
    still = synthetic.neutral_motion(3)
    turned = still | {"yaw": np.full(3, 0.4, np.float32)}
    frames, landmarks = synthetic.render(identity, still, 128)
    truth = scores.judge_truth(frames, landmarks, judges)

    def mean(drawn):
        values, *_ = scores.score_video(drawn, truth, judges)
        return {name: np.mean(v) for name, v in values.items()}

    right = mean(frames)
    pose = mean(synthetic.render(identity, turned, 128)[0])
    person = mean(synthetic.render(other, still, 128)[0])
    assert pose["nme"] > 0.1 and right["nme"] == 0
    assert pose["ssim"] < right["ssim"]
    assert person["csim_dlib"] < right["csim_dlib"] - 0.02


def test_frames_without_a_face_are_counted_not_scored(judges):
    frames, landmarks = synthetic.render(
        synthetic.sample_identity(4), synthetic.neutral_motion(3), 128
    )
    grey = np.full_like(frames, 128)
    truth = scores.judge_truth(frames, landmarks, judges)
    values, *_ = scores.score_video(grey, truth, judges)
    assert np.isnan(values["nme"]).all() and (values["no_face"] == 1).all()
    # A truth without faces: the drawn ones have nothing to be compared with.
    truth = scores.judge_truth(grey, landmarks, judges)
    np.testing.assert_array_equal(truth.landmarks, landmarks)
    values, *_ = scores.score_video(frames, truth, judges)
    assert np.isnan(values["nme"]).all() and (values["no_face"] == 0).all()
    values, *_ = scores.score_video(grey + np.uint8(51), truth, judges)
    np.testing.assert_allclose(values["l1"], 0.2, rtol=1e-5)


def test_sources_and_targets_are_disjoint_nested_and_in_order(people):
    sources, targets = evaluation_data.split(people, 1, 4, 6, seed=0)
    fewer, _ = evaluation_data.split(people, 1, 2, 6, seed=0)
    np.testing.assert_array_equal(sources[:2], fewer)
    assert not set(sources) & set(targets) and (np.diff(targets) > 0).all()
    assert min(sources.min(), targets.min()) >= people.video_offset[1]
    other, _ = evaluation_data.split(people, 1, 4, 6, seed=1)
    assert list(other) != list(sources)


def test_too_few_frames_is_one_line(people):
    with pytest.raises(InputError, match="lower --frames"):
        evaluation_data.choose_videos(people, 13, 50)


def test_videos_of_different_people_come_first():
    parts = archive.render_archive(4, 3, 32, seed=3, num_workers=0)
    people = archive.make_archive(
        parts.frames,
        parts.landmarks,
        parts.frames_per_video,
        list("abcd"),
        ["x", "x", "y", "x"],
    )
    assert evaluation_data.choose_videos(people, 2, 50) == [0, 2, 1, 3]
    assert evaluation_data.choose_videos(people, 2, 2) == [0, 2]


def test_videos_left_out_for_their_length_are_counted(caplog):
    parts = archive.render_archive(3, 4, 32, seed=3, num_workers=0)
    named = (["a", "b", "c"], ["x", "y", "z"])
    rows = np.r_[0:4, 4:6, 8:12]  # the second person has two frames
    frames, landmarks = parts.frames[rows], parts.landmarks[rows]
    people = archive.make_archive(frames, landmarks, [4, 2, 4], *named)
    assert evaluation_data.choose_videos(people, 4, 2) == [0, 2] and not caplog.text
    assert evaluation_data.choose_videos(people, 4, 50) == [0, 2]
    assert "1 of 3 held-out videos have fewer than the 4 frames" in caplog.text


def _arrays(rng, quality):
    """Scores as an evaluation saves them, better with `quality`."""
    arrays = {name: np.zeros((8, 8, 3), np.uint8) for name in ("source", "truth")}
    arrays["no_face"] = np.zeros(4, bool)
    arrays["features/truth/dlib"] = rng.normal(size=(4, 3))
    for i, method in enumerate(("nearest", "ft")):
        arrays[f"example/{method}"] = np.zeros((8, 8, 3), np.uint8)
        arrays[f"finite/{method}"] = np.bool_(True)
        for name in ("l1", "psnr", "ssim", "nme", "no_face", "csim_dlib"):
            arrays[f"values/{method}/{name}"] = np.full(4, quality + i)
        shift = arrays["features/truth/dlib"] + i
        arrays[f"features/{method}/dlib"] = shift
        arrays[f"seconds/{method}/ssim"] = np.float64(0.01)
    return arrays


def test_report_averages_over_videos_and_compares_sets(tmp_path):
    rng = np.random.default_rng(0)
    results = {(t, v): _arrays(rng, 0.1 * v) for t in (1, 8) for v in (0, 1)}
    results[8, 0]["values/ft/nme"][:] = np.nan  # no face in any frame of this video
    config = {"perceptual": {"face_id": 1.0}}
    seen = {"data": SETTINGS["data"] | {"trained_on": ["anna"]}}
    rows = evaluation_report.write(tmp_path, SETTINGS | seen, config, results)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["results"] == rows and len(report["per_video"]) == 8
    first = {(r["shots"], r["method"]): r for r in rows}
    assert first[1, "nearest"]["l1"] == pytest.approx(0.05)
    # Student's t of two people: 12.706 standard errors, of 0.05.
    half = 12.7062 * 0.05
    assert first[1, "nearest"]["l1_ci95"] == pytest.approx([0.05 - half, 0.05 + half])
    assert first[8, "ft"]["nme"] == pytest.approx(1.1)
    assert first[1, "nearest"]["frechet_dlib"] == pytest.approx(0, abs=1e-9)
    assert first[1, "ft"]["frechet_dlib"] == pytest.approx(3, rel=1e-6)
    assert first[1, "ft"]["frames"] == 8 and report["csim_dlib_network_in_loss"]
    text = (tmp_path / "report.md").read_text()
    assert "**Not held out**: the model was trained on anna." in text
    assert "its network was in the training loss" in text
    assert "| VoxCeleb2 | the paper, FT | 8 | 42.2 | 0.68 | 0.42 | 0.39 |" in text
    assert (tmp_path / "grid.png").exists()


def test_a_report_says_what_its_means_hide(tmp_path):
    rng = np.random.default_rng(0)
    results = {(t, v): _arrays(rng, 0.1) for t in (1, 8) for v in (0, 1)}
    config = {"perceptual": {"face_id": 0.0}}
    evaluation_report.write(tmp_path, SETTINGS, config, results)
    plain = (tmp_path / "report.md").read_text()
    for hidden in ("no landmark error there", "stay finite", "Scored in parts"):
        assert hidden not in plain
    for t in (1, 8):
        results[t, 1]["no_face"][:2] = True
    results[8, 1]["finite/ft"] = np.bool_(False)
    mixed = SETTINGS | {"code": [{"source": "abc"}, {"source": "def"}]}
    evaluation_report.write(tmp_path, mixed, config, results)
    text = (tmp_path / "report.md").read_text()
    assert "In 25.0% of the true frames dlib finds no face" in text
    assert "stay finite**" in text and "same: v1 (fine-tuned, T = 8).\n" in text
    assert "Scored in parts, by different versions" in text
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["no_face_in_truth"] == 0.25
    assert [r["video"] for r in report["per_video"] if not r["finite"]] == ["v1"]


def test_an_oracle_is_never_the_best(tmp_path):
    rng = np.random.default_rng(0)
    results = {(1, v): _arrays(rng, 0.5) for v in (0, 1)}
    for arrays in results.values():
        arrays["driver"], arrays["transfer"] = arrays["truth"], np.full(4, 0.25)
        for key in [k for k in arrays if "/ft" in k]:
            arrays[key.replace("/ft", "/ft_oracle")] = arrays[key]
        arrays["values/ft_oracle/l1"] = np.zeros(4)
    drivers = SETTINGS["data"] | {"drivers": ["x", "y"]}
    settings = SETTINGS | {"mode": "cross", "transfer": "none", "shots": [1]}
    settings["data"] = drivers
    config = {"perceptual": {"face_id": 0.0}}
    rows = evaluation_report.write(tmp_path, settings, config, results)
    assert [r["method"] for r in rows] == ["nearest", "ft", "ft_oracle"]
    text = (tmp_path / "report.md").read_text()
    assert "| nearest photo | **0.5** |" in text
    assert "| fine-tuned (oracle) | 0 |" in text
    assert "another's landmarks, as they are;" in text and "0.25 (T = 1)" in text
    assert "x → v0, y → v1." in text


def test_plots_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    results = {(t, v): _arrays(rng, 0.1 * v) for t in (1, 8) for v in (0, 1)}
    named = SETTINGS | {"data": SETTINGS["data"] | {"videos": ["$5_$_x", "v1"]}}
    evaluation_report.write(tmp_path, named, {"perceptual": {"face_id": 0.0}}, results)
    for name in ("metrics.png", "people_T1.png", "people_T8.png"):
        assert (tmp_path / name).stat().st_size > 5_000


def test_finished_scores_are_kept_and_other_settings_refused(tmp_path, caplog):
    """What has been scored is not scored again; it belongs to its settings."""
    folder = score_files.open_scores(tmp_path, SETTINGS)
    score_files.save(folder / "T1_00000.npz", {"values/ft/l1": np.arange(4.0)})
    assert score_files.open_scores(tmp_path, SETTINGS) == folder
    loaded = score_files.load(folder / "T1_00000.npz")
    np.testing.assert_array_equal(loaded["values/ft/l1"], np.arange(4.0))
    with pytest.raises(InputError, match=r"other settings \(shots\).*--output"):
        score_files.open_scores(tmp_path, SETTINGS | {"shots": [1]})
    with pytest.raises(InputError, match=r"other settings \(scores_version\)"):
        score_files.open_scores(tmp_path, SETTINGS | {"scores_version": 99})
    later = SETTINGS | {"code": [{"source": "def"}]}
    score_files.open_scores(tmp_path, later)
    assert later["code"] == [{"source": "abc"}, {"source": "def"}]  # both are named
    assert "another version of the code" in caplog.text
    shutil.rmtree(tmp_path / "scores")


def test_where_models_and_data_lie_is_no_setting(tmp_path):
    score_files.open_scores(tmp_path, SETTINGS)
    moved = SETTINGS | {"model": {"path": "./runs/a", "step": 7}}
    score_files.open_scores(tmp_path, moved)
    with pytest.raises(InputError, match=r"other settings \(model\)"):
        score_files.open_scores(tmp_path, SETTINGS | {"model": {"path": "", "step": 8}})
    # What an older evaluation did not note is noted from now on.
    for fields in ({"loss.pixel": 1.0}, {"loss.pixel": 1.0, "loss.younger": 3.0}):
        score_files.open_scores(tmp_path, SETTINGS | {"recipe": fields})
    with pytest.raises(InputError, match=r"other settings \(recipe\)"):
        score_files.open_scores(tmp_path, SETTINGS | {"recipe": {"loss.pixel": 2.0}})


def test_damaged_scores_are_made_again_and_damaged_settings_named(tmp_path, caplog):
    folder = score_files.open_scores(tmp_path, SETTINGS)
    path = folder / "T1_00000.npz"
    assert score_files.load(path) is None
    score_files.save(path, {"values/ft/l1": np.arange(400.0)})
    path.write_bytes(path.read_bytes()[:200])
    assert score_files.load(path) is None
    assert "T1_00000.npz: is damaged" in caplog.text
    for text in ("", "[1]"):
        (tmp_path / "settings.json").write_text(text)
        with pytest.raises(InputError, match=r"settings\.json: is damaged"):
            score_files.open_scores(tmp_path, SETTINGS)
