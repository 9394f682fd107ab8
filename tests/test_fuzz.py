"""A short run of the fuzzer, and proof that it would see what it looks for."""

import collections
import os
import pathlib
import signal
import time

import numpy as np
import pytest

from benchmarks import fuzz
from benchmarks.fuzz_files import add_samples, make_files
from benchmarks.fuzz_mutations import mutate

# protobuf's own generated classes, as TFDS 4.9.10 uses them.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:label\(\) is deprecated:DeprecationWarning"
)
HEAVY = ("head", "dataset")  # import JAX or TensorFlow: read in this process


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_files(tmp_path_factory.mktemp("fuzz"))


def _assert_good(outcomes, *verdicts):
    bad = {c.name: o for c, o in outcomes.items() if o.verdict not in verdicts}
    assert outcomes and not bad


def test_good_files_are_read(files):
    cases = fuzz.good_cases({kind: paths[-1:] for kind, paths in files.items()})
    assert {case.kind for case in cases} == set(files)
    _assert_good({case: fuzz.run_case(case) for case in cases}, "valid")


def test_broken_files_end_well(files):
    light = {kind: paths for kind, paths in files.items() if kind not in HEAVY}
    outcomes = fuzz.run_cases(fuzz.make_cases(light, 3 * len(light), 0), 1)
    _assert_good(outcomes, *fuzz.GOOD)
    found = collections.Counter(outcome.verdict for outcome in outcomes.values())
    assert found["refused"] > 10 and found["valid"] > 3  # neither too much nor little


def test_broken_heads_and_datasets_end_well(files):
    heavy = {kind: files[kind] for kind in HEAVY}
    cases = fuzz.make_cases(heavy, 24, 0)
    _assert_good({case: fuzz.run_case(case) for case in cases}, *fuzz.GOOD)


def test_samples_end_well(files, samples):
    with_samples = add_samples(files, samples)
    assert len(with_samples["mp4"]) > len(files["mp4"])
    cases = [case for case in fuzz.bad_samples(samples / "bad") if case.reader == 0]
    assert len(cases) > 20
    _assert_good(fuzz.run_cases(cases, 1), *fuzz.GOOD)


def _misbehave(case, beat):
    """A reader with the fault that its case is named after."""

    def read():
        if case.name == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if case.name == "hang":
            time.sleep(60)
        if case.name == "memory":
            np.ones(1_000_000_000, np.uint8)
        if case.name == "exception":
            raise KeyError("not a clear error")
        return "valid"

    return fuzz.measure(read, "nothing")


def test_faults_are_seen():
    names = ("crash", "hang", "memory", "exception", "fine")
    cases = [fuzz.Case(name, "", pathlib.Path(), None) for name in names]
    outcomes = fuzz.run_cases(cases, 2, _misbehave, seconds=10.0)
    found = {case.name: outcome.verdict for case, outcome in outcomes.items()}
    assert found == {
        "crash": "crashed",
        "hang": "hung",
        "memory": "memory",
        "exception": "exception",
        "fine": "valid",
    }


def test_a_seed_decides_the_mutant(files, tmp_path):
    for kind, (path, *_) in files.items():
        if path.is_dir():
            continue
        data = path.read_bytes()
        mutants = [
            mutate(path.suffix, data, np.random.default_rng(seed)) for seed in (1, 1, 2)
        ]
        assert mutants[0] == mutants[1], kind
    distinct = {mutate(".mp4", data, np.random.default_rng(s))[0] for s in range(20)}
    assert len(distinct) > 15
    case = fuzz.make_cases(files, 40, 5)[-1]
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    one, other = (fuzz.write_case(case, tmp_path / name)[0] for name in "ab")
    assert one.is_dir() or one.read_bytes() == other.read_bytes()
