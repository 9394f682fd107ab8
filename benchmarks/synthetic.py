"""Does dlib take the synthetic heads for people? And how fast are they rendered?

python -m benchmarks.synthetic --people 200 --size 256
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from benchmarks import report
from data_pipeline import landmarks as lm
from data_pipeline import synthetic
from data_pipeline.tracking import FaceTracker

_SECONDS_APART = 0.8  # frames of one person: far enough for another syllable
_SPEED_PEOPLE = 16
_OUTER_CORNERS = (36, 45)
_PARTS = {
    "jaw": slice(0, 17),
    "brows": slice(17, 27),
    "nose": slice(27, 36),
    "eyes": slice(36, 48),
    "mouth": slice(48, 68),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    report.add_flags(parser)
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--frames", type=int, default=5, help="of each person")
    parser.add_argument("--first", type=int, default=0, help="seed of the first person")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--yaw", type=float, default=30.0, help="largest, degrees")
    parser.add_argument("--triplets", type=int, default=4000)
    parser.add_argument("--at-once", type=int, default=1, help="frames side by side")
    flags = parser.parse_args()

    people = range(flags.first, flags.first + flags.people)
    motions = [talking(seed, flags.frames, flags.yaw) for seed in people]
    start = time.perf_counter()
    rendered = [
        synthetic.render(synthetic.sample_identity(seed), motion, flags.size)
        for seed, motion in zip(people, motions)
    ]
    seconds = time.perf_counter() - start
    frames, exact = (np.stack(v) for v in zip(*rendered))  # [P, F, ...]
    row = {
        **detection(frames, exact),
        **identity(frames, exact, flags.triplets),
        "numpy_frames_per_s": flags.people * flags.frames / seconds,
        "jax_frames_per_s": jax_speed(people, motions, flags),
    }
    rows = [{"what": name, "value": float(value)} for name, value in row.items()]
    about = {"people": flags.people, "frames": flags.frames, "size": flags.size}
    about |= {"yaw": flags.yaw, **report.machine()}
    report.show("synthetic heads", rows, about, flags.json)


def talking(seed: int, num_frames: int, degrees: float) -> dict[str, np.ndarray]:
    """Frames of one person's speech, each at a uniformly random yaw."""
    step = round(_SECONDS_APART * 25)
    motion = synthetic.sample_motion(seed, step * num_frames, "talk")
    motion = {key: values[::step] for key, values in motion.items()}
    yaw = np.random.default_rng([seed, 1]).uniform(-1, 1, num_frames)
    return motion | {"yaw": np.deg2rad(degrees * yaw).astype(np.float32)}


def jax_speed(people, motions, flags) -> float:
    """Frames per second of `render_frames`, compiled, best of the rounds."""
    import jax

    from flax_heads.synthetic_frames import render_frames, stack_people

    people = [synthetic.sample_identity(seed) for seed in people[:_SPEED_PEOPLE]]
    motion = {
        key: np.concatenate([m[key] for m in motions[: len(people)]])
        for key in motions[0]
    }
    who = np.repeat(np.arange(len(people)), flags.frames)
    people, who, motion = jax.device_put((stack_people(people), who, motion))
    seconds = []
    for _ in range(1 + flags.rounds):  # the first compiles
        start = time.perf_counter()
        jax.block_until_ready(
            render_frames(people, who, motion, size=flags.size, at_once=flags.at_once)
        )
        seconds.append(time.perf_counter() - start)
    return len(who) / min(seconds[1:])


def detection(frames: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    """Detections and landmarks of frames [P, F, H, W, 3] against exact [P, F, 68, 2].

    Returns:
      `one_face`: share of frames in which the detector finds exactly one face, as
        `prepare` searches the frames of VoxCeleb; `one_face_plain`: the same at the
        detector's own threshold, without enlarging; `kept`: share in which `prepare`
        also trusts the landmarks; `nme`: mean distance of dlib's points to the exact
        ones, in distances of the outer eye corners, and of each part of the face.
    """
    frames = frames.reshape(-1, *frames.shape[2:])
    exact = exact.reshape(-1, 68, 2)
    found, kept, plain, errors = [], [], [], []
    for frame, points in zip(frames, exact):
        tracker = FaceTracker(cropped=True)
        seen = tracker.update(frame)
        found.append(tracker.most_faces == 1)
        kept.append(seen is not None)
        boxes = lm.detect(frame, max(frame.shape))
        plain.append(len(boxes) == 1)
        if boxes:  # trusted or not
            seen, _ = lm.fit_landmarks(frame, boxes[0][0])
            a, b = points[list(_OUTER_CORNERS)]
            distance = np.linalg.norm(seen - points, axis=1) / np.linalg.norm(a - b)
            errors.append(distance)
    errors = np.array(errors)  # [N, 68]
    return {
        "one_face": np.mean(found),
        "one_face_plain": np.mean(plain),
        "kept": np.mean(kept),
        "nme": errors.mean(),
        "nme_90_percent": np.quantile(errors.mean(1), 0.9),
        **{f"nme_{name}": errors[:, part].mean() for name, part in _PARTS.items()},
    }


def identity(frames: np.ndarray, exact: np.ndarray, count: int) -> dict[str, float]:
    """Whether dlib's recogniser tells the people apart, in `count` random triplets."""
    from flax_heads.identity import DlibIdentity

    people, per_person = frames.shape[:2]
    points = exact.reshape(-1, 68, 2)
    found = DlibIdentity().describe(frames.reshape(-1, *frames.shape[2:]), points)
    found = found.reshape(people, per_person, -1)
    rng = np.random.default_rng(0)
    person = rng.integers(people, size=count)
    other = (person + rng.integers(1, people, size=count)) % people
    anchor = rng.integers(per_person, size=count)
    positive = (anchor + rng.integers(1, per_person, size=count)) % per_person
    negative = rng.integers(per_person, size=count)
    anchor = found[person, anchor]
    same = np.linalg.norm(anchor - found[person, positive], axis=1)
    different = np.linalg.norm(anchor - found[other, negative], axis=1)
    return {
        "triplets_right": np.mean(same < different),
        "distance_same": same.mean(),
        "distance_different": different.mean(),
        "different_under_0.6": np.mean(different < 0.6),
    }


if __name__ == "__main__":
    main()
