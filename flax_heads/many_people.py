"""Few-shot learning of many people at once.

People are independent. On accelerators those with the same T run as one program: side by
side on each device (`vmap`), and spread over the local devices; on the CPU one after the
other. Either way a person's head is the one that `fine_tune` makes, up to rounding.
How much is gained side by side was not measured on a GPU, where convolutions of several
people's kernels become grouped ones; `per_device=1` does without.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import Partial

from data_pipeline.people import Person
from data_pipeline.raster import draw_rasters
from data_pipeline.read_ahead import read_ahead
from flax_heads import spectral
from flax_heads.early_stopping import Pictures, Rule, learn, make_check, outcome
from flax_heads.fine_tuning import compile_advance, prefers_one_program
from flax_heads.meta_model import (
    MetaModel,
    as_head,
    choose_pictures,
    fine_tune,
    tuning_history,
)
from flax_heads.talking_head import TalkingHead

_AXIS = "people"
_AHEAD = 8  # people whose photos are read before their turn


def fine_tune_many(
    model: MetaModel,
    people: Iterable[tuple[str, Person]],
    *,
    num_iterations: int | None = None,
    seed: int = 0,
    per_device: int | None = None,
) -> Iterator[tuple[str, TalkingHead]]:
    """Learns people as they come; those with the same T form groups.

    Args:
      model: from `load_model`.
      people: names and photos; read ahead, in another thread.
      num_iterations, seed: as for `fine_tune`, the same for everyone.
      per_device: people side by side on each device. By default one after the other on
        the CPU; else as many as draw together what one person's full batch draws.

    Yields:
      (name, head), in the order in which groups are complete.
    """
    if per_device is None and not prefers_one_program():
        options = dict(num_iterations=num_iterations, seed=seed)
        for name, person in read_ahead(people, _AHEAD):
            yield name, fine_tune(model, person.photos, person.landmarks, **options)
        return
    tuner = _GroupTuner(model, model.rule(num_iterations), seed, per_device)
    waiting: dict[int, list[_Prepared]] = {}  # T -> people
    for item in read_ahead((tuner.prepare(*pair) for pair in people), _AHEAD):
        group = waiting.setdefault(len(item.person.photos), [])
        group.append(item)
        if len(group) == tuner.group_size(item):
            yield from tuner.tune(waiting.pop(len(item.person.photos)))
    for group in waiting.values():
        yield from tuner.tune(group)


class _Prepared(NamedTuple):
    """A person ready to be learned."""

    name: str
    person: Person
    rasters: np.ndarray  # uint8 [T, H, W, 3], of the photos
    pictures: Pictures


class _GroupTuner:
    """Learns people of equal T at once; compiles once per T."""

    def __init__(self, model: MetaModel, rule: Rule, seed: int, per_device: int | None):
        self._model, self._per_device = model, per_device
        self._rule, self._seed = rule, seed
        mesh = Mesh(np.array(jax.local_devices()), (_AXIS,))
        self._num_devices = mesh.size
        self._spread = NamedSharding(mesh, PartitionSpec(_AXIS))
        everywhere = NamedSharding(mesh, PartitionSpec())
        self._learned = jax.device_put(model.learned, everywhere)
        self._key = jax.device_put(jax.random.key(seed), everywhere)
        start = model.start()
        advance = model.advance() if rule.num_iterations else None

        def of_all(function, in_axes):  # None: the same for everyone
            axes = {None: PartitionSpec(), 0: PartitionSpec(_AXIS)}
            return jax.shard_map(
                jax.vmap(function, in_axes),
                mesh=mesh,
                in_specs=tuple(axes[axis] for axis in in_axes),
                out_specs=axes[0],
                check_vma=False,  # nothing is summed over devices
            )

        self._start = jax.jit(
            of_all(
                lambda learned, photos, rasters, key: start(
                    *learned, photos, rasters, key=key
                ),
                (None, 0, 0, None),
            )
        )

        def advance_all(advance, *arguments, count=1):
            def advance_one(advance, *arguments):
                return advance(*arguments, count=count)

            return of_all(advance_one, (None, 0, 0, 0, None))(advance, *arguments)

        self._advance = compile_advance(
            Partial(advance_all, jax.device_put(advance, everywhere))
        )
        self._check = jax.jit(of_all(make_check(model.networks, rule), (0, 0, 0, 0)))
        self._fold = jax.jit(of_all(spectral.fold, (0, 0)))

    def prepare(self, name: str, person: Person) -> _Prepared:
        model = self._model
        rasters = draw_rasters(person.landmarks, model.size, model.style)
        pictures = choose_pictures(
            model, person.photos, person.landmarks, self._rule, self._seed
        )
        return _Prepared(name, person, rasters, pictures)

    def group_size(self, item: _Prepared) -> int:
        """How many people like this one are learned at once."""
        batch_size = self._model.config.fine_tune.batch_size
        fill = max(1, batch_size // len(item.pictures.photos))
        return self._num_devices * (self._per_device or fill)

    def tune(self, group: list[_Prepared]) -> Iterator[tuple[str, TalkingHead]]:
        """Learns at most `group_size` people; a smaller group is filled up by copies."""
        missing = self.group_size(group[0]) - len(group)
        filled = group + group[-1:] * missing

        def stack(images):  # uint8 [people, ...], a share on each device
            return jax.device_put(np.stack(list(images)), self._spread)

        state = self._start(
            self._learned,
            stack(item.person.photos for item in filled),
            stack(item.rasters for item in filled),
            self._key,
        )
        learned = learn(
            self._advance,
            self._check,
            state,
            Pictures(*map(stack, zip(*(item.pictures for item in filled)))),
            self._rule,
            seed=self._seed,
        )
        folded = jax.device_get(self._fold(learned.best.ema, learned.best.vectors))
        asked = tuning_history(self._model, self._rule, self._seed)
        for i, item in enumerate(group):
            yield (
                item.name,
                as_head(
                    self._model,
                    jax.tree.map(lambda values, i=i: values[i], folded),
                    item.person.photos,
                    item.person.landmarks,
                    asked | outcome(self._rule, learned, i),
                ),
            )
