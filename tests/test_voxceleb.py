import pathlib

import numpy as np
import pytest

from data_pipeline.errors import InputError
from data_pipeline.voxceleb import find_videos, held_out_identities, read_boxes

HEADER = """Identity  : \tid00012
Reference : \t21Uxsk56VDQ
Offset    : \t1
FV Conf   : \t11.245\t(1)
ASD Conf  : \t3.552

FRAME \tX \tY \tW \tH
"""


def _touch(root: pathlib.Path, *paths: str) -> pathlib.Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


def _keys(videos, split=None) -> list[str]:
    return [v.key for v in videos if split in (None, v.split)]


def test_utterances_of_a_video_are_merged(tmp_path):
    _touch(
        tmp_path,
        "mp4/id1/aa/00002.mp4",
        "mp4/id1/aa/00001.mp4",
        "mp4/id1/bb/00001.mp4",
        "mp4/id2/aa/00001.mp4",
        "mp4/id2/aa/._00001.mp4",
        "mp4/id2/aa/notes.txt",
    )
    videos = find_videos(tmp_path, "voxceleb2")
    assert _keys(videos) == ["id1/aa", "id1/bb", "id2/aa"]
    assert [u.name for u in videos[0].utterances] == ["00001.mp4", "00002.mp4"]
    assert videos[0].identity == "id1" and videos[0].video == "aa"
    assert len(videos[2].utterances) == 1
    assert _keys(find_videos(tmp_path / "mp4", "voxceleb2")) == _keys(videos)


def test_voxceleb2_keeps_its_official_split(tmp_path):
    _touch(
        tmp_path, "dev/mp4/id1/a/1.mp4", "dev/mp4/id2/b/1.mp4", "test/mp4/id3/c/1.mp4"
    )
    videos = find_videos(tmp_path, "voxceleb2", test_fraction=0.5)
    assert _keys(videos, "train") == ["id1/a", "id2/b"]
    assert _keys(videos, "test") == ["id3/c"]
    for inner in ("test", "test/mp4"):
        assert [v.split for v in find_videos(tmp_path / inner, "voxceleb2")] == ["test"]
    chosen = find_videos(tmp_path, "voxceleb2", test_identities=["id2"])
    assert _keys(chosen, "test") == ["id2/b"]
    _touch(tmp_path, "test/mp4/id1/a/1.mp4")
    with pytest.raises(InputError, match="id1/a is there twice"):
        find_videos(tmp_path, "voxceleb2")


def test_voxceleb1_crops_and_its_test_people(tmp_path):
    _touch(
        tmp_path,
        "unzippedFaces/Eartha_Kitt/1.6/vid1/0001750.jpg",
        "unzippedFaces/Eartha_Kitt/1.6/vid1/0000025.jpg",
        "unzippedFaces/Adam_Driver/1.6/vid2/0000025.jpg",
    )
    for source in (tmp_path, tmp_path / "unzippedFaces"):
        videos = find_videos(source, "voxceleb1")
        assert _keys(videos, "train") == ["Adam_Driver/vid2"]
        assert _keys(videos, "test") == ["Eartha_Kitt/vid1"]
        assert [u.stem for u in videos[1].utterances] == ["0000025", "0001750"]


def test_voxceleb1_text_files_beside_videos(tmp_path):
    _touch(
        tmp_path,
        "txt/id10270/aa/00002.txt",
        "txt/id10270/aa/00001.txt",
        "txt/id10310/bb/00001.txt",
        "txt/id10310/gone/00001.txt",
        "videos/aa.mp4",
        "videos/bb.webm",
    )
    test, train = find_videos(tmp_path, "voxceleb1")
    assert (test.key, test.split) == ("id10270/aa", "test")
    assert (train.key, train.split) == ("id10310/bb", "train")
    assert [u.name for u in test.utterances] == ["aa.mp4"]
    assert [b.name for b in test.boxes] == ["00001.txt", "00002.txt"]


def test_any_folder_of_videos(tmp_path):
    _touch(
        tmp_path,
        "anna/a.mp4",
        "anna/trip/a.MOV",
        "anna/a.mkv",
        "ben/b.webm",
        "carl.mp4",
        "readme.md",
    )
    videos = find_videos(tmp_path, "folder", test_fraction=0.0)
    assert _keys(videos) == [
        "anna/a.mkv",
        "anna/a.mp4",
        "anna/trip/a",
        "ben/b",
        "carl/carl",
    ]
    assert {v.identity for v in videos} == {"anna", "ben", "carl"}
    assert {v.split for v in videos} == {"train"}


def test_splits_are_by_person_and_repeatable(tmp_path):
    _touch(tmp_path, *(f"p{i}/{v}.mp4" for i in range(20) for v in "ab"))
    videos = find_videos(tmp_path, "folder", test_fraction=0.2)
    test = {v.identity for v in videos if v.split == "test"}
    assert len(test) == 4
    assert not test & {v.identity for v in videos if v.split == "train"}
    assert videos == find_videos(tmp_path, "folder", test_fraction=0.2)


def test_held_out_people_hardly_change_as_the_corpus_grows():
    people = [f"id{i}" for i in range(100)]
    before = held_out_identities(people, 0.1)
    after = held_out_identities([*people, "new"], 0.1)
    assert len(before) == 10 and len(after) == 10
    assert len(before & after) >= 9
    assert held_out_identities(["only"], 0.5) == held_out_identities([], 0.5) == set()
    # Few people are still evaluated on somebody else.
    assert len(held_out_identities(["a", "b"], 0.1)) == 1
    assert held_out_identities(["a", "b"], 0.0) == set()


def test_wrong_sources_say_what_was_expected(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no such folder; expected .*mp4"):
        find_videos(tmp_path / "nowhere", "voxceleb2")
    for layout in ("voxceleb1", "voxceleb2", "folder"):
        with pytest.raises(InputError, match=f"nothing in the layout {layout}"):
            find_videos(tmp_path, layout)
    _touch(tmp_path, "p/a.mp4")
    with pytest.raises(InputError, match="test identity q"):
        find_videos(tmp_path, "folder", test_identities=["q"])
    with pytest.raises(InputError, match="unknown layout"):
        find_videos(tmp_path, "voxceleb3")


def test_boxes_are_read_to_the_last(tmp_path):
    path = tmp_path / "00001.txt"
    path.write_text(HEADER + "000245 \t0.25 \t0.1 \t0.5 \t0.6 \n000246\t1\t2\t3\t4\n")
    frames, boxes = read_boxes(path)
    assert frames.tolist() == [245, 246]
    np.testing.assert_allclose(boxes, [[0.25, 0.1, 0.5, 0.6], [1, 2, 3, 4]])


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no line 'FRAME X Y W H'"),
        ("hello\nworld\n", "no line 'FRAME X Y W H'"),
        (HEADER, "no boxes"),
        (HEADER + "1\t0\t0\t0.5\n", "line 8 is not"),
        (HEADER + "1\t0\t0\t5\t5\n2\tx\t0\t5\t5\n", "line 9 is not"),
        (HEADER + "1\t0\t0\tnan\t5\n", "line 8 is not"),
        (HEADER + "1\t0\t0\t-5\t5\n", "line 8 is not"),
        (HEADER + "9" * 30 + "\t0\t0\t5\t5\n", "line 8 is not"),
        (HEADER + "1\t0\t0\t1e300\t5\n", "line 8 is not"),
    ],
)
def test_bad_box_files_name_the_line(tmp_path, text, message):
    path = tmp_path / "00001.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_boxes(path)
    assert str(path) in str(caught.value)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        read_boxes(path)


def test_a_huge_box_file_is_not_read(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(HEADER + "000001 1 2 3 4\n" * 300_000)
    with pytest.raises(InputError, match="more than 4 MB"):
        read_boxes(path)


def test_names_in_any_script_are_taken(tmp_path):
    """Screen recordings of a Mac have a narrow space (U+202F) in their names."""
    _touch(tmp_path, "\u4e2d\u6587/at 3.45\u202fPM.mp4", "Zo\u00eb/a\u00a0b.mp4")
    assert {v.identity for v in find_videos(tmp_path)} == {"\u4e2d\u6587", "Zo\u00eb"}


def test_names_that_are_no_text_are_refused(tmp_path):
    _touch(tmp_path, "mp4/id1/a/1.mp4")
    (tmp_path / "mp4" / "id1" / "a").rename(tmp_path / "mp4" / "id1" / "a\udce9")
    with pytest.raises(InputError, match=r"a\\udce9.* rename"):
        find_videos(tmp_path, "voxceleb2")


def test_pictures_whose_names_are_no_frame_numbers_are_no_crops(tmp_path):
    _touch(tmp_path, "Ann/1.6/v/0000025.jpg", "Ann/1.6/v/\u00b2.jpg")
    (video,) = find_videos(tmp_path, "voxceleb1")
    assert [path.name for path in video.utterances] == ["0000025.jpg"]


def test_the_sample_corpus(samples):
    videos = find_videos(samples / "voxlike", "voxceleb2")
    assert len({v.identity for v in videos}) == 58
    assert sum(len(v.utterances) for v in videos) == 104
    assert len({v.identity for v in videos if v.split == "test"}) == 6


def test_people_whose_folders_are_links_are_found_and_hidden_ones_are_not(tmp_path):
    disk = _touch(tmp_path / "disk", "bob/b.mp4")
    corpus = _touch(
        tmp_path / "corpus", "alice/a.mp4", ".trash/old.mp4", "alice/.thumbs/t.mp4"
    )
    (corpus / "bob").symlink_to(disk / "bob")
    (corpus / "alice/loop").symlink_to(corpus)
    assert _keys(find_videos(corpus, "folder")) == ["alice/a", "bob/b"]


def test_other_peoples_pictures_in_voxceleb1s_layout(tmp_path):
    """The official split is of VoxCeleb1's people, who are called First_Last."""
    pictures = ("0.jpg", "1.JPG", "2.jpeg", "3.png", "notes.txt")
    names = [f"Emma{i}" for i in range(5)] + [f"Bob{i}" for i in range(5)]
    _touch(tmp_path, *(f"{n}/1.6/v/{p}" for n in names for p in pictures))
    _touch(tmp_path, "Bob1/1.6/readme.txt")
    videos = find_videos(tmp_path, "voxceleb1", test_fraction=0.5)
    assert all(len(video.utterances) == 4 for video in videos)
    test = {v.identity for v in videos if v.split == "test"}
    assert 0 < len(test) < 10 and test != set(names[:5])
