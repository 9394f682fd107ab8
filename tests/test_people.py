"""Photos and clips of one person: crops, landmarks, and what is refused."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("dlib")
pytest.importorskip("av")
data = pytest.importorskip("skimage.data")

from data_pipeline.errors import InputError
from data_pipeline.people import load_person, people_from_folder
from data_pipeline.video_writer import VideoWriter


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    astronaut = data.astronaut()
    Image.fromarray(astronaut).save(folder / "photo.png")
    Image.fromarray(np.concatenate([astronaut, astronaut], 1)).save(folder / "two.png")
    Image.fromarray(data.coffee()).save(folder / "coffee.png")
    face = astronaut[:320, 60:380]
    with VideoWriter(folder / "clip.mp4", 256, 256, 25) as writer:
        for i in range(20):
            writer.write(np.ascontiguousarray(face[i : i + 256, i : i + 256]))
    return folder


def test_photo_is_cropped_around_the_face(folder):
    person = load_person([folder / "photo.png"], 64)
    assert person.photos.shape == (1, 64, 64, 3) and person.photos.dtype == np.uint8
    assert person.landmarks.shape == (1, 68, 2)
    assert ((person.landmarks > 4) & (person.landmarks < 60)).all()
    nose = person.landmarks[0, 30]
    assert abs(nose[0] - 32) < 8


def test_clip_gives_frames_spread_over_its_length(folder):
    person = load_person([folder / "clip.mp4"], 64, frames_per_clip=5)
    assert len(person.photos) == 5
    times = [float(name.split("@")[1][:-1]) for name in person.sources]
    assert times[0] < 0.1 and times[-1] > 0.7


def test_photos_and_clips_add_up(folder):
    person = load_person([folder / "photo.png", folder / "clip.mp4"], 64, 3)
    assert len(person.photos) == 4


@pytest.mark.parametrize(
    "name, reason",
    [("coffee.png", "no_face"), ("two.png", "several_faces"), ("gone.png", "missing")],
)
def test_bad_photos_are_named(folder, name, reason):
    with pytest.raises(InputError) as error:
        load_person([folder / name], 64)
    assert error.value.reason == reason
    assert name in str(error.value) and "\n" not in str(error.value)


def test_no_photos_at_all():
    with pytest.raises(InputError, match="no photos"):
        load_person([], 64)


def test_phone_photos_are_read_or_told(folder, tmp_path):
    """A JPEG by any of its names is a photo; what Pillow cannot read is said to be one."""
    for suffix in (".jfif", ".jpe"):
        photo = tmp_path / f"me{suffix}"
        Image.open(folder / "photo.png").convert("RGB").save(photo, "JPEG")
        assert len(load_person([photo], 64).photos) == 1
    (tmp_path / "me.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(InputError, match="convert it to JPEG"):
        load_person([tmp_path / "me.HEIC"], 64)


def test_stray_files_are_nobody(tmp_path):
    for name in ("Thumbs.db", "notes.txt", "anna/1.png", "anna/desktop.ini", "bo.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    people = people_from_folder(tmp_path)
    assert people == {"anna": [tmp_path / "anna/1.png"], "bo": [tmp_path / "bo.mp4"]}


def test_a_face_that_the_border_cuts_is_refused(folder, tmp_path):
    """Border pixels would be learned in place of what is missing."""
    face = data.astronaut()[:135, 60:380]  # ends above the mouth
    Image.fromarray(np.ascontiguousarray(face)).save(tmp_path / "cut.png")
    with pytest.raises(InputError, match=r"cut\.png: the face is cut off"):
        load_person([tmp_path / "cut.png"], 64)


def test_frames_in_which_the_border_cuts_the_face_are_not_taken(tmp_path):
    wide = np.ascontiguousarray(data.astronaut()[:320, 60:380])
    cut = np.zeros_like(wide)  # the picture's lower end is at the mouth
    cut[320 - 135 :] = wide[:135]
    with VideoWriter(tmp_path / "clip.mp4", 320, 320, 25) as writer:
        for picture in [wide] * 10 + [cut] * 10:
            writer.write(picture)
    person = load_person([tmp_path / "clip.mp4"], 64, frames_per_clip=6)
    times = [float(name.split("@")[1][:-1]) for name in person.sources]
    assert max(times) < 0.4
