"""A training that is killed again and again, against one that is left alone.

    nice python -m benchmarks.soak --minutes 60 --kill-every 3 --workdir runs/soak

Trains for so many minutes while killing the run at random moments (SIGKILL, SIGKILL in
the middle of a save, SIGTERM) and starting it again with the same command; then trains
the same number of steps in one go. Prints both runs' losses, whether the states at the
end are equal bit for bit, and the memory over time. Exit code 0 only if all is equal.
Flags it does not know (`--config.FIELD=VALUE`) are passed on to the training.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np

from flax_heads import saved_steps
from flax_heads.train import EXIT_PREEMPTED

_WAYS = ("SIGKILL", "SIGKILL in a save", "SIGTERM")
# Saves and log lines often enough that each life leaves several of both.
_FIELDS = {
    "data.num_videos": 64,
    "checkpoint_every_steps": 20,
    "log_every_steps": 5,
    "eval_every_steps": 100,
}


@dataclasses.dataclass
class Life:
    """One process of the training, from its start to its end."""

    process: subprocess.Popen
    born: float = dataclasses.field(default_factory=time.monotonic)
    memory: list[tuple[float, float]] = dataclasses.field(default_factory=list)

    @property
    def age(self) -> float:
        """Seconds."""
        return time.monotonic() - self.born

    def look(self) -> bool:
        """Notes the memory in use, MiB; returns whether the process is still there."""
        if self.process.poll() is not None:
            return False
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        for line in status.splitlines():
            if line.startswith("VmRSS:"):
                self.memory.append((self.age, int(line.split()[1]) / 1024))
        return True

    def medians(self, parts: int = 6) -> str:
        """The memory in each sixth of the life: equal ones mean that nothing leaks."""
        if len(self.memory) < 10 * parts:
            return "too short a life to say"
        values = np.array_split([mebibytes for _, mebibytes in self.memory], parts)
        numbers = ", ".join(f"{np.median(part):.0f}" for part in values)
        return (
            f"{numbers} MiB, median of each sixth of {self.memory[-1][0] / 60:.0f} min"
        )


def start(workdir: pathlib.Path, config: str, fields: list[str], steps: int) -> Life:
    workdir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "flax_heads.train", f"--config={config}"]
    command += [f"--workdir={workdir}", f"--config.num_train_steps={steps}", *fields]
    with (workdir / "log.txt").open("ab") as log:
        return Life(subprocess.Popen(command, stdout=log, stderr=log))


def newest(workdir: pathlib.Path) -> int:
    steps = saved_steps.newest_first(saved_steps.folder_of(workdir))
    return steps[0] if steps else 0


def kill(life: Life, way: str, workdir: pathlib.Path) -> int:
    """Ends the process in one of _WAYS; returns its exit code."""
    if way == "SIGKILL in a save":
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and life.process.poll() is None:
            if any((workdir / "checkpoints").glob("*-tmp")):
                break
    life.process.send_signal(signal.SIGTERM if way == "SIGTERM" else signal.SIGKILL)
    return life.process.wait(timeout=300)


def run_and_kill(
    workdir: pathlib.Path, config: str, fields: list[str], minutes: float, every: float
) -> list[Life]:
    """Trains for `minutes`, killed about `every` minutes, at last by SIGTERM."""
    lives, end = [], time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        before = newest(workdir)
        life = start(workdir, config, fields, steps=10**9)
        lives.append(life)
        moment = min(time.monotonic() + 60 * every * random.uniform(0.3, 1.7), end)
        while time.monotonic() < moment or newest(workdir) == before == 0:
            if not life.look():
                raise SystemExit(f"the run ended by itself: see {workdir}/log.txt")
            time.sleep(1)
        way = random.choice(_WAYS) if moment < end else "SIGTERM"
        code = kill(life, way, workdir)
        print(
            f"life {len(lives)}: {life.age:.0f} s, from step {before}; {way}, "
            f"exit code {code}; saved up to step {newest(workdir)}",
            flush=True,
        )
        # A process that is told to stop before it trains dies, with nothing to save.
        expected = (EXIT_PREEMPTED, -signal.SIGTERM) if way == "SIGTERM" else (-9,)
        if code not in expected:
            raise SystemExit(f"unexpected exit code: see {workdir}/log.txt")
    return lives


def run_alone(
    workdir: pathlib.Path, config: str, fields: list[str], steps: int
) -> Life:
    life = start(workdir, config, fields, steps)
    while life.look():
        time.sleep(1)
    if life.process.returncode:
        raise SystemExit(f"the run failed: see {workdir}/log.txt")
    return life


def metrics_of(workdir: pathlib.Path) -> dict[tuple[int, str], float]:
    """{(step, name): value} of all that does not depend on time."""
    values = {}
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        line = json.loads(line)
        step = line.pop("step")
        line.pop("steps_per_second", None)
        values |= {(step, name): value for name, value in line.items()}
    return values


def compare(killed: pathlib.Path, alone: pathlib.Path, step: int) -> bool:
    """Prints both runs side by side; returns whether they are equal."""
    ours, theirs = metrics_of(killed), metrics_of(alone)
    common = sorted(set(ours) & set(theirs))
    print(f"\n{'step':>8} {'metric':<20} {'killed':>14} {'left alone':>14}")
    names = ("l1", "loss/content", "loss/discriminator", "held_out/l1")
    shown = [key for key in common if key[1] in names]
    for key in shown[:: max(1, len(shown) // 24)]:
        print(f"{key[0]:>8} {key[1]:<20} {ours[key]:>14.8g} {theirs[key]:>14.8g}")
    differing = [key for key in common if ours[key] != theirs[key]]
    print(f"\nmetrics: {len(common)} compared, {len(differing)} differ")
    digests = [
        saved_steps.read_json(saved_steps.folder_of(w) / str(step), "digests")
        for w in (killed, alone)
    ]
    leaves = [name for name in digests[0] if name.startswith("state/")]
    unequal = [name for name in leaves if digests[0][name] != digests[1][name]]
    print(f"state at step {step}: {len(leaves)} leaves, {len(unequal)} differ")
    return bool(leaves) and not unequal and not differing


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60, help="of the killed run")
    parser.add_argument("--kill-every", type=float, default=3, help="minutes, about")
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/soak")
    parser.add_argument("--config", default="configs/synthetic.py")
    parser.add_argument("--seed", type=int, default=0, help="of when and how to kill")
    args, passed_on = parser.parse_known_args(argv)
    random.seed(args.seed)
    fields = [f"--config.{name}={value}" for name, value in _FIELDS.items()] + passed_on
    killed, alone = args.workdir / "killed", args.workdir / "alone"
    if killed.exists() or alone.exists():
        parser.error(f"{args.workdir} is in use: name another --workdir")
    lives = run_and_kill(killed, args.config, fields, args.minutes, args.kill_every)
    step = newest(killed)
    print(
        f"\n{len(lives)} lives, {step} steps; now the same steps in one go", flush=True
    )
    life = run_alone(alone, args.config, fields, step)
    equal = compare(killed, alone, step)
    print(f"memory, left alone: {life.medians()}")
    longest = max(lives, key=lambda x: len(x.memory))
    print(f"memory, longest of the killed: {longest.medians()}")
    print("equal bit for bit" if equal else "NOT EQUAL")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
