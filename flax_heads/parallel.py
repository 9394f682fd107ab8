"""The one file that knows devices: the mesh, and where state and batches live.

A batch is one global array split over every device of every process; the state is
replicated, except W, whose rows are spread. XLA derives the collectives from that, so
the step function itself mentions no device. `jax.pmap` maps the very same step, with
`axis_name=AXIS`; a test holds the two together.
"""

from __future__ import annotations

import collections
import functools
import itertools
import re
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import Partial

from data_pipeline.errors import InputError
from flax_heads.state import TrainState

AXIS = "data"
_MONTH = 30 * 24 * 3600  # seconds


def join_processes(how: str, independent: bool = False) -> None:
    """Makes this process one of several; before any device is used.

    Args:
      how: "auto" where SLURM, Open MPI or a TPU pod started them and says which is
        which; else "HOST:PORT,RANK/COUNT", where the process of rank 0 listens.
      independent: each does a share of its own, instead of one training by all. Then one
        that is done waits for the others as long as it takes, where JAX would abort all
        after five minutes (a dead one is still noticed), and SIGTERM ends a process,
        where JAX notes it for the training.

    Raises:
      InputError: `how` is something else, or the others cannot be found.
    """
    place = re.fullmatch(r"(\S+:\d+),(\d+)/(\d+)", how)
    if how != "auto" and not place:
        raise InputError(
            f"--distributed={how}: expected auto, or HOST:PORT,RANK/COUNT such as "
            "node0:9876,1/2",
            reason="arguments",
        )
    arguments = {"shutdown_timeout_seconds": _MONTH} if independent else {}
    if place:
        address, rank, count = place.groups()
        arguments |= dict(
            coordinator_address=address, process_id=int(rank), num_processes=int(count)
        )
    try:
        jax.distributed.initialize(**arguments)
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"--distributed={how}: the processes did not find each other "
            f"({str(error).splitlines()[0]}); under SLURM start them with srun, else "
            "name the address, see launch/ssh.sh",
            reason="distributed",
        ) from error
    if independent:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A one-dimensional mesh over `devices`, by default all of all processes.

    Built from the device array, not by `jax.make_mesh`, whose axes have become
    explicit: those refuse the gather W[video_index].
    """
    return Mesh(np.array(devices or jax.devices()), (AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def split_by_rows(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(AXIS))


def state_shardings(mesh: Mesh, state: TrainState) -> TrainState:
    """Shardings of a (possibly abstract) state: rows of W spread, the rest everywhere.

    On a number of devices that does not divide the rows (3, or 512 of VoxCeleb2's) W is
    everywhere, too.
    """
    shardings = jax.tree.map(lambda _: replicated(mesh), state)
    even = len(state.video_embeddings.values) % mesh.size == 0
    rows = split_by_rows(mesh) if even else replicated(mesh)
    rows = jax.tree.map(lambda _: rows, state.video_embeddings)
    return shardings.replace(video_embeddings=rows)


# `init` runs once: optimising its many random generators takes a minute and saves nothing.
_COMPILE_FAST = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


def jit_init(init: Callable[[], TrainState], mesh: Mesh) -> TrainState:
    """Runs `init` so that every part of the state is born where it belongs."""
    shardings = state_shardings(mesh, jax.eval_shape(init))
    return jax.jit(init, out_shardings=shardings, compiler_options=_COMPILE_FAST)()


def compile_step(
    step: Partial, mesh: Mesh, state: TrainState, batch: dict[str, Any]
) -> functools.partial:
    """Compiles a step for the mesh.

    Args:
      step: from `make_meta_step`, or another pytree (`Partial(function)`); what it holds
        is copied to every device.
      mesh: from `make_mesh`.
      state: of the run, or its shapes.
      batch: a global batch, or its shapes (`abstract_batch`).

    Returns:
      `(state, batch) -> (state, metrics)`, whose `func` is the `jax.stages.Compiled`.
      The state passed in is donated, do not use it again.
    """
    step = jax.device_put(step, replicated(mesh))
    shardings = state_shardings(mesh, state)
    jitted = jax.jit(
        lambda step, state, batch: step(state, batch),
        in_shardings=(replicated(mesh), shardings, split_by_rows(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=1,
    )
    return functools.partial(jitted.lower(step, state, batch).compile(), step)


def abstract_batch(
    batch_size: int, num_support: int, size: int
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of a global batch, to compile a step before there is one."""

    def images(*lead):
        return jax.ShapeDtypeStruct((batch_size, *lead, size, size, 3), np.uint8)

    return {
        "support_frames": images(num_support),
        "support_rasters": images(num_support),
        "target_frame": images(),
        "target_raster": images(),
        "video_index": jax.ShapeDtypeStruct((batch_size,), np.int32),
    }


def check_batch_size(mesh: Mesh, batch_size: int, accumulate: int = 1) -> None:
    """Raises InputError unless each device's share of a batch has `accumulate` parts."""
    unit = mesh.size * max(accumulate, 1)
    if accumulate < 1 or batch_size < 1 or batch_size % unit:
        parts = f" in {accumulate} parts each" if accumulate != 1 else ""
        raise InputError(
            f"batch_size {batch_size} does not divide over {mesh.size} devices{parts}; "
            f"use a multiple of {unit}",
            reason="batch_size",
        )


def place_batches(
    batches: Iterable[dict[str, np.ndarray]], mesh: Mesh, ahead: int = 2
) -> Iterator[dict[str, jax.Array]]:
    """Moves each process's share of the batches to its devices, `ahead` of their use."""
    sharding = split_by_rows(mesh)

    def place(batch):
        return {
            name: jax.make_array_from_process_local_data(sharding, value)
            for name, value in batch.items()
        }

    queue: collections.deque = collections.deque()
    batches = iter(batches)
    while True:
        for batch in itertools.islice(batches, ahead + 1 - len(queue)):
            queue.append(place(batch))
        if not queue:
            return
        yield queue.popleft()
