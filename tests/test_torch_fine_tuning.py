"""Our fine-tuning step (section 3.3) against plain PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax_heads.fine_tuning import FineTuneState, make_fine_tune_step
from flax_heads.state import start_player
from flax_heads.torch_weights import to_state_dict
from tests import tiny, torch_models
from tests.test_torch_parity import (
    DOUBLE_TOLERANCE,
    double_precision,
    error,
    everything,
    load,
    random_arrays,
    random_state,
    to_torch,
    torch_batch,
    torch_networks,
)


def compare_fine_tune_steps(steps: int) -> dict[str, float]:
    """Fine-tunes `tiny.NETWORKS` to a person drawn at random on both sides.

    Returns:
      largest errors of the losses of all steps, and of what there is after the last.
    """
    networks = tiny.networks_with(dtype=jnp.result_type(float))
    adams = tiny.GENERATOR_ADAM, tiny.DISCRIMINATOR_ADAM
    learned = random_state(*adams)
    (psi,) = random_arrays((networks.generator.psi_size,))
    params = {"generator": learned.generator.params["generator"], "psi": psi}
    vectors = {
        path: pair
        for path, pair in learned.generator.vectors.items()
        if path.startswith("generator/")
    }
    state = FineTuneState(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        generator=start_player(params, vectors, adams[0]),
        discriminator=learned.discriminator,
        ema=params,
    )
    step = jax.jit(make_fine_tune_step(networks, *adams, tiny.WEIGHTS))

    theirs = load(torch_networks(), *everything(learned))
    their_psi = torch.nn.Parameter(to_torch(psi))
    groups = (
        [*theirs.generator.parameters(), their_psi],
        theirs.discriminator.parameters(),
    )
    optimizers = [
        torch.optim.Adam(group, lr=a.learning_rate, betas=(a.b1, a.b2), eps=a.eps)
        for group, a in zip(groups, adams)
    ]
    errors = {"losses": 0.0}
    for i in range(steps):
        batch = tiny.make_batch(seed=i)
        batch = {"frames": batch["target_frame"], "rasters": batch["target_raster"]}
        state, metrics = step(state, batch)
        images = torch_batch(batch | {"video_index": np.zeros(1, np.int32)})
        values = torch_models.fine_tune_step(
            theirs.generator,
            their_psi,
            theirs.discriminator,
            *optimizers,
            images["frames"],
            images["rasters"],
            vars(tiny.WEIGHTS),
        )
        for name, value in values.items():
            errors["losses"] = max(
                errors["losses"], error(metrics[f"loss/{name}"], value)
            )
    expected = theirs.state_dict()
    ours = to_state_dict(
        {
            "generator": state.generator.params["generator"],
            "discriminator": state.discriminator.params,
        },
        {
            **state.generator.vectors,
            **{f"discriminator/{k}": v for k, v in state.discriminator.vectors.items()},
        },
    )
    after = f"parameters, psi', w', u, v after {steps} steps"
    errors[after] = max(
        error(state.generator.params["psi"], their_psi.detach()),
        *(error(value, expected[name]) for name, value in ours.items()),
    )
    return errors


def test_fine_tuning_steps():
    """Two updates of V, w' and b, then one of G and psi', three times over."""
    with double_precision():
        errors = compare_fine_tune_steps(3)
    assert max(errors.values()) <= DOUBLE_TOLERANCE, errors
