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
