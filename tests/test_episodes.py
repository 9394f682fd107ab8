import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.episodes import draw_episodes, process_slice
from data_pipeline.errors import InputError


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    step=st.integers(0, 10**7),
    batch_size=st.integers(1, 9),
    num_support=st.integers(1, 8),
    frames=st.lists(st.integers(0, 40), min_size=1, max_size=12),
)
def test_frames_are_distinct_in_range_and_the_target_is_no_support(
    seed, step, batch_size, num_support, frames
):
    frames_per_video = np.array(frames)
    if (frames_per_video <= num_support).all():
        with pytest.raises(InputError, match="lower num_support"):
            draw_episodes(seed, step, batch_size, num_support, frames_per_video)
        return
    videos, chosen = draw_episodes(
        seed, step, batch_size, num_support, frames_per_video
    )
    assert videos.dtype == chosen.dtype == np.int32
    assert chosen.shape == (batch_size, num_support + 1)
    for video, row in zip(videos, chosen):
        assert frames_per_video[video] > num_support
        assert len(set(row.tolist())) == num_support + 1
        assert row[-1] not in row[:-1]
        assert row.min() >= 0 and row.max() < frames_per_video[video]


def test_every_eligible_video_is_seen_once_per_epoch():
    frames_per_video = np.array([9, 2, 9, 9, 1, 9, 9])  # five have three frames
    videos = np.concatenate(
        [draw_episodes(3, step, 2, 2, frames_per_video)[0] for step in range(10)]
    )
    epochs = videos.reshape(4, 5)
    for epoch in epochs:
        assert sorted(epoch) == [0, 2, 3, 5, 6]
    assert not (epochs[0] == epochs[1]).all()


def test_the_order_of_episodes_does_not_depend_on_the_batch_size():
    frames_per_video = np.full(7, 20)
    one, frames_one = draw_episodes(5, 0, 12, 3, frames_per_video)
    pairs = [draw_episodes(5, step, 4, 3, frames_per_video) for step in range(3)]
    np.testing.assert_array_equal(one, np.concatenate([v for v, _ in pairs]))
    np.testing.assert_array_equal(frames_one, np.concatenate([f for _, f in pairs]))


def test_seeds_and_steps_draw_other_frames():
    frames_per_video = np.full(4, 50)
    first = draw_episodes(0, 0, 4, 4, frames_per_video)[1]
    assert (draw_episodes(1, 0, 4, 4, frames_per_video)[1] != first).any()
    assert (draw_episodes(0, 1, 4, 4, frames_per_video)[1] != first).any()


def test_all_frames_become_target_equally_often():
    counts = np.zeros(5)
    for step in range(1000):
        counts[draw_episodes(0, step, 1, 2, np.array([5]))[1][0, -1]] += 1
    assert (np.abs(counts - 200) < 60).all()  # five standard deviations


def test_process_slices_tile_the_batch():
    parts = [np.arange(12)[process_slice(12, p, 3)] for p in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(12))
    with pytest.raises(InputError, match="multiple of the 5 processes"):
        process_slice(12, 0, 5)
