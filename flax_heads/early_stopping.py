"""How long a person is learned: until pictures that are not trained on get no better.

Of all iterations that were checked, the best one's moving average becomes the head.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from data_pipeline.errors import InputError
from flax_heads import losses, spectral
from flax_heads.fine_tuning import (
    FineTuneState,
    prefers_one_program,
    run_fine_tuning,
)
from flax_heads.meta_learning import generate
from flax_heads.objectives import to_unit_range
from flax_heads.state import Networks


@dataclasses.dataclass(frozen=True)
class Rule:
    """When fine-tuning ends.

    Attributes:
      num_iterations: at most; exactly, where nothing is checked.
      check_every: iterations between checks; 0 checks nothing.
      patience: checks without improvement after which it ends.
    """

    num_iterations: int
    check_every: int = 0
    patience: int = 3

    def __post_init__(self):
        if self.num_iterations < 0 or self.check_every < 0 or self.patience < 1:
            raise InputError(
                f"fine_tune: num_iterations {self.num_iterations}, check_every "
                f"{self.check_every}, patience {self.patience}: expected at least 0, "
                "0 and 1",
                reason="config",
            )

    @property
    def checks(self) -> bool:
        return bool(self.num_iterations and self.check_every)

    @property
    def waits(self) -> int:
        """Iterations without improvement after which it ends."""
        return self.patience * self.check_every

    def asked(self) -> dict[str, Any]:
        """What was asked for, as a head's history says it."""
        stopping = {"check_every": self.check_every, "patience": self.patience}
        return {
            "iterations": self.num_iterations,
            "early_stopping": stopping if self.checks else None,
        }


class Pictures(NamedTuple):
    """What a person is learned from; uint8, perhaps with a leading axis of people.

    Attributes:
      photos, rasters: [T', H, W, 3], to be trained on.
      held_out, held_out_rasters: [n, H, W, 3], to be checked on; n may be 0.
    """

    photos: Any
    rasters: Any
    held_out: Any
    held_out_rasters: Any


class Best(struct.PyTreeNode):
    """The best of the iterations that were checked.

    Attributes:
      step: int32, its iteration.
      skipped: int32, how many until then were not finite and changed nothing.
      l1: float32, of the pictures held out, in [0, 1]; infinite before the first check.
      ema, vectors: of the generator and psi', and their singular vectors, at `step`.
    """

    step: jax.Array
    skipped: jax.Array
    l1: jax.Array
    ema: Any
    vectors: spectral.Vectors


class Learned(NamedTuple):
    """One person, or several with a leading axis, as `learn` leaves them.

    Attributes:
      best: the parameters to use; without checks, the last ones.
      checks: (iteration, held-out L1 float [...]) of each check.
    """

    best: Best
    checks: list[tuple[int, np.ndarray]]


def make_check(networks: Networks, rule: Rule) -> Callable[..., tuple[Best, jax.Array]]:
    """Builds the pure `(best, state, held_out, rasters) -> (best, l1)` of one person.

    Images are uint8 [n, H, W, 3]. The mean L1 is that of the moving average, as a head
    would draw. After `rule.patience` checks in vain the person has stopped: whatever
    comes then, while others go on beside, no longer counts.
    """

    def check(best, state, held_out, rasters):
        params = spectral.fold(state.ema, state.generator.vectors)
        psi = jnp.broadcast_to(params["psi"], (len(rasters), *params["psi"].shape))
        drawn = generate(networks, params, to_unit_range(rasters), psi)
        l1 = losses.mean_l1(drawn, to_unit_range(held_out)) / 2
        now = _best(state, l1)
        return keep_better(best, now, rule), l1

    return check


def _best(state: FineTuneState, l1: jax.Array) -> Best:
    return Best(state.step, state.skipped, l1, state.ema, state.generator.vectors)


def keep_better(best: Best, now: Best, rule: Rule) -> Best:
    """`now` if it is better and its person had not stopped before, else `best`."""
    better = (now.l1 < best.l1) & (now.step - best.step <= rule.waits)
    return jax.tree.map(lambda a, b: jnp.where(better, a, b), now, best)


def learn(
    advance: Callable[..., tuple[FineTuneState, dict]] | None,
    check: Callable[..., tuple[Best, jax.Array]],
    state: FineTuneState,
    pictures: Pictures,
    rule: Rule,
    *,
    seed: int,
    on_progress: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
) -> Learned:
    """Runs iterations until the rule ends them, for everyone if there are several.

    Up to the last of them, the iterations are those of a fixed number.

    Args:
      advance, check: compiled, of one person or of several; see `run_fine_tuning`.
        Where the rule asks for no iteration, `advance` may be None.
      state: from `personalize`; donated.
      pictures: what to train and to check on; without the latter the number is fixed.
      rule, seed, on_progress: see `Rule` and `run_fine_tuning`.
    """
    photos, rasters, held_out, held_out_rasters = map(jnp.asarray, pictures)
    # Not a constant: with several people it has their axis, and lies where they do.
    infinite = state.step + np.float32(np.inf)  # float32 for good: one program
    best = _best(state, infinite)
    if not (rule.checks and held_out.size):
        state = run_fine_tuning(
            advance,
            state,
            photos,
            rasters,
            num_iterations=rule.num_iterations,
            seed=seed,
            on_progress=on_progress,
        )
        return Learned(_best(state, best.l1), [])

    # Equal parts, so that only one program is compiled, whatever the last interval is.
    at_once = math.gcd(rule.num_iterations, rule.check_every)
    best, l1 = check(best, state, held_out, held_out_rasters)
    done, checks = 0, [(0, np.asarray(l1))]
    while done < rule.num_iterations:
        state = run_fine_tuning(
            advance,
            state,
            photos,
            rasters,
            num_iterations=min(rule.check_every, rule.num_iterations - done),
            seed=seed,
            at_once=at_once if prefers_one_program() else 1,
            on_progress=lambda n, metrics, done=done: on_progress(done + n, metrics),
        )
        done = min(done + rule.check_every, rule.num_iterations)
        best, l1 = check(best, state, held_out, held_out_rasters)
        checks.append((done, np.asarray(l1)))
        if np.all(done - np.asarray(best.step) >= rule.waits):
            break
    return Learned(best, checks)


def outcome(rule: Rule, learned: Learned, person: int | tuple = ()) -> dict[str, Any]:
    """What became of one person, plain JSON.

    Args:
      person: index on the leading axis, where there are several.
    """
    skipped = int(np.asarray(learned.best.skipped)[person])
    not_finite = {"not_finite": skipped} if skipped else {}
    if not learned.checks:
        return {"iterations_run": rule.num_iterations, **not_finite}
    best = int(np.asarray(learned.best.step)[person])
    run = min(best + rule.waits, rule.num_iterations)
    checks = {n: float(l1[person]) for n, l1 in learned.checks if n <= run}
    checks = {n: round(l1, 5) if np.isfinite(l1) else None for n, l1 in checks.items()}
    found = {"best_iteration": best, "held_out_l1": checks[best]}
    return {
        "iterations_run": run,
        **not_finite,
        **(found if checks[best] is not None else {}),
        "checks": list(map(list, checks.items())),
    }


def describe(history: dict[str, Any]) -> str:
    """One line of a head's history: how long it was learned, and why."""
    asked, run = history["iterations"], history["iterations_run"]
    line = f"{run} iterations"
    if "best_iteration" in history:
        ran = f"stopped after {run} of" if run < asked else "ran all"
        line = (
            f"{ran} {asked} iterations; best at {history['best_iteration']} "
            f"(held-out L1 {history['held_out_l1']:.4f})"
        )
    if skipped := history.get("not_finite"):
        line += f"; {skipped} were not finite and changed nothing"
    return line
