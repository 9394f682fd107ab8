"""Benchmarks: what they take from the package is there, and one runs to its end."""

import ast
import functools
import importlib
import json
import pathlib
import subprocess
import sys
import types

import jax
import pytest

from flax_heads import config_file, info, parallel, recipe

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = sorted(ROOT.glob("benchmarks/*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_name_it_takes_from_a_module_exists(path):
    """Most imports are within functions: to import a benchmark shows little."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    modules = {}
    for node in nodes:
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.module in ("__future__", "tests"):  # the latter's models are torch's
            continue
        module = importlib.import_module(node.module)
        for name in node.names:
            if not hasattr(module, name.name):  # a module that nobody imported yet
                importlib.import_module(f"{node.module}.{name.name}")
            modules[name.asname or name.name] = getattr(module, name.name)
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id)
            if isinstance(module, types.ModuleType):
                assert hasattr(module, node.attr), f"{node.lineno}: {node.attr}"


def test_a_step_is_measured(tmp_path):
    command = "-m benchmarks.step --torch --rounds=1 --batch-size=4 --num-support=3 "
    command += "--config=configs/synthetic.py:tiny"
    path = tmp_path / "step.json"
    subprocess.run(
        [sys.executable, *command.split(), f"--json={path}"],
        cwd=ROOT,
        check=True,
        timeout=300,
    )
    measured = json.loads(path.read_text())
    (row,) = measured["rows"]
    assert row["seconds"] > 0 and row["images_per_s"] == pytest.approx(
        16 / row["seconds"]
    )
    assert 0 < row["share_of_peak"] < 1 and measured["devices"] == 4


def test_flops_are_those_of_the_batch_whatever_order_it_is_computed_in():
    """XLA counts the body of a loop once."""
    config = config_file.load("configs/synthetic.py:tiny")
    state = jax.eval_shape(functools.partial(recipe.new_state, config, 8))
    batch = parallel.abstract_batch(8, config.num_support, config.size)
    counted = info.count_step_flops(config, state, batch)
    config.accumulate = 4
    config.model.remat = True
    assert info.count_step_flops(config, state, batch) == counted
