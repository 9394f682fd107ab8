"""The demo: what it refuses before it begins, and the time of its animated picture."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("dlib")
pytest.importorskip("av")
data = pytest.importorskip("skimage.data")

from data_pipeline.errors import InputError
from data_pipeline.video_writer import VideoWriter
from flax_heads import demo


def _clip(path, frames, fps):
    with VideoWriter(path, frames[0].shape[1], frames[0].shape[0], fps) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def test_a_clip_without_a_face_is_refused_before_anything_is_learned(
    tmp_path, monkeypatch
):
    def learn(*_, **__):
        raise AssertionError("learned")

    monkeypatch.setattr(demo, "fine_tune", learn)
    Image.fromarray(data.astronaut()).save(tmp_path / "me.png")
    empty = _clip(tmp_path / "fog.mp4", [np.full((64, 64, 3), 90, np.uint8)] * 5, 25)
    with pytest.raises(InputError, match=r"fog\.mp4: no face"):
        demo.run_demo(tmp_path / "out", [tmp_path / "me.png"], [empty])


@pytest.mark.parametrize("what", ["portrait.png", "head", "by_fog.mp4"])
def test_what_is_in_the_way_stays_and_is_told_at_once(tmp_path, what):
    out, photos, driving = tmp_path / "out", [], []
    out.mkdir()
    if what == "portrait.png":
        Image.new("RGB", (64, 64)).save(out / what)
    else:
        photos = [tmp_path / "me.png"]
        Image.fromarray(data.astronaut()).save(photos[0])
        (out / what).write_bytes(b"somebody's")
        if what != "head":
            (out / "fog.mp4").write_bytes(b"a clip")
            driving = [out / "fog.mp4", out / what]
    before = (out / what).read_bytes()
    with pytest.raises(InputError, match=f"{what}: .* name another"):
        demo.run_demo(out, photos, driving)
    assert (out / what).read_bytes() == before


@pytest.mark.parametrize("fps", [5, 10, 25, 60])
def test_the_animated_picture_lasts_as_long_as_the_video(tmp_path, fps):
    frames = [np.full((48, 144, 3), 2 * i, np.uint8) for i in range(2 * fps)]
    video = _clip(tmp_path / "a.mp4", frames, fps)
    demo.save_animation(tmp_path / "a.webp", [video])
    with Image.open(tmp_path / "a.webp") as picture:
        lasts = 0
        for i in range(picture.n_frames):
            picture.seek(i)
            picture.load()
            lasts += picture.info["duration"] / 1000
        assert lasts == pytest.approx(2, abs=0.08 + 1 / fps)
        assert "trainedAlgorithmicMedia" in str(picture.info["xmp"])
