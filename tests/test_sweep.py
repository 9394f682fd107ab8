"""Sweeps: the right commands, shared trainings, a table at the end, and resuming."""

import json
import shlex
import sys

import pytest

from data_pipeline.errors import InputError
from flax_heads import cli, sweep
from flax_heads.train import EXIT_PREEMPTED

TINY = [
    "--config.num_support=2",
    "--config.num_train_steps=2",
    "--config.fine_tune.augmentations=4",
]


def test_plan_names_workdirs_and_recipes(tmp_path):
    variants = ["base", "k1", "loss.match=2", "k1,no_attention,seed=3"]
    runs = sweep.plan("configs/x.py:small", variants, tmp_path, ["--config.a=1"])
    assert [r.train[3] for r in runs] == [
        "--config=configs/x.py:small",
        "--config=configs/x.py:small,k1",
        "--config=configs/x.py:small",
        "--config=configs/x.py:small,k1,no_attention",
    ]
    assert runs[2].train[-2:] == ["--config.a=1", "--config.loss.match=2"]
    assert runs[3].train[-1] == "--config.seed=3"
    assert len({r.model for r in runs}) == len({r.report for r in runs}) == 4
    (bare,) = sweep.plan("configs/x.py", ["k8"], tmp_path)
    assert bare.train[3] == "--config=configs/x.py:k8"


def test_variants_of_fine_tuning_share_a_training(tmp_path):
    variants = ["base", "random_psi", "random_w,fine_tune.num_iterations=7", "k1"]
    base, psi, w, k1 = sweep.plan("configs/x.py", variants, tmp_path)
    assert base.model == psi.model == w.model != k1.model
    assert base.train == psi.train == w.train
    assert psi.evaluate[-2:] == ["--fine-tune", "random_psi=True"]
    assert w.evaluate[-2:] == ["random_w=True", "num_iterations=7"]
    assert "--fine-tune" not in base.evaluate


def test_no_variant_is_one_line():
    with pytest.raises(InputError, match="'k9': expected 'base', field=value or one"):
        sweep.plan("configs/x.py", ["k9"], "w")


@pytest.mark.parametrize("code", [130, EXIT_PREEMPTED])
def test_ctrl_c_waits_for_what_runs_and_starts_nothing_else(tmp_path, code):
    """A terminal sends it to all; a training saves for a while before it ends."""
    script = (
        "import os, pathlib, signal, sys, time; os.kill(os.getppid(), signal.SIGINT); "
        "time.sleep(0.5); pathlib.Path(sys.argv[1]).touch(); sys.exit(int(sys.argv[2]))"
    )
    runs = [
        sweep.Run(
            name=name,
            model=tmp_path / name,
            train=[sys.executable, "-c", script, str(tmp_path / name), str(code)],
            evaluate=[],
            report=tmp_path / "none",
        )
        for name in ("first", "second")
    ]
    assert sweep.run(runs, tmp_path) == EXIT_PREEMPTED
    assert (tmp_path / "first").exists() and not (tmp_path / "second").exists()


def test_jobs_for_a_cluster(capsys, tmp_path):
    """A line for each model; a variant of fine-tuning alone shares the base's."""
    argv = ["sweep", "--config=configs/synthetic.py:smoke", "--print-commands"]
    argv += ["--sweep", "ff", "base", "random_psi", "--shots", "1", "8"]
    argv += ["--corrections", "2"]
    assert cli.main([*argv, f"--workdir={tmp_path}/a b", "--config.seed=3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    ff, base = ([shlex.split(c) for c in line.split(" && ")] for line in lines)
    assert f"--workdir={tmp_path}/a b/ff" in ff[0] and "--config.seed=3" in ff[0]
    assert ff[1][ff[1].index("--shots") :] == ["--shots", "1", "8"]
    assert "--corrections=2" in ff[1] and "--corrections=2" in base[2]
    assert "flax_heads.train" in base[0] and "--fine-tune" not in base[1]
    assert base[2][-2:] == ["--fine-tune", "random_psi=True"]
    assert len(ff) == 2 and len(base) == 3
    assert not list(tmp_path.iterdir())


def test_unknown_flags_are_refused_as_everywhere(capsys):
    with pytest.raises(SystemExit):
        cli.main(["sweep", "--config=c", "--sweep", "ff", "--workdir=w", "--steps=3"])
    assert "--steps=3" in capsys.readouterr().err


def test_table_says_what_was_not_run(tmp_path):
    runs = sweep.plan("configs/x.py", ["base", "k1", "k8"], tmp_path)
    runs[0].report.parent.mkdir(parents=True)
    row = {"shots": 8, "method": "ft", "l1": 0.0312, "nme": None}
    runs[0].report.write_text(json.dumps({"results": [row], "per_video": []}))
    lines = sweep.table(runs, {"k1"}).splitlines()
    assert lines[2].startswith("| base | 8 | fine-tuned | 0.0312 | - |")
    assert lines[3].startswith("| k1 | | failed |")
    assert lines[4].startswith("| k8 | | not run |")
    # What is there of an earlier run is not what failed now.
    assert "| base | | failed |" in sweep.table(runs, {"base"})


def test_table_compares_video_by_video(tmp_path):
    runs = sweep.plan("configs/x.py", ["base", "k1"], tmp_path)
    for run, l1 in zip(runs, [(0.1, 0.2, 0.6), (0.09, 0.18, 0.57)]):
        rows = [
            {"shots": 1, "method": "ft", "video": v, "identity": v, "l1": value}
            for v, value in zip("abc", l1)
        ]
        run.report.parent.mkdir(parents=True)
        results = [{"shots": 1, "method": "ft", "l1": sum(l1) / 3}]
        run.report.write_text(json.dumps({"results": results, "per_video": rows}))
    lines = sweep.table(runs).splitlines()
    assert lines[0].endswith("| L1 less that of base |")
    assert lines[2].endswith("| - |")
    assert lines[3].endswith("| -0.0200 (-0.0448 to +0.0048) |")


def test_fields_of_fine_tuning_reach_the_evaluation(tmp_path):
    """A training that is finished keeps its config, and would be evaluated by that."""
    flags = ["--config.seed=3", "--config.fine_tune.num_iterations=7"]
    flags += ["--config.fine_tune.random_w=true"]
    runs = sweep.plan("configs/x.py", ["base", "random_psi"], tmp_path, flags)
    tuning = ["--fine-tune", "num_iterations=7", "random_w=True"]
    assert runs[0].evaluate[-3:] == tuning
    assert runs[1].evaluate[-4:] == [*tuning, "random_psi=True"]
    assert flags[1] in runs[0].train


def test_sweep_trains_evaluates_and_goes_on(tmp_path, capfd):
    """Two variants of one training and one that cannot run, for real."""
    pytest.importorskip("dlib")
    recipe = "configs/synthetic.py:tiny,no_attention"
    argv = ["sweep", f"--config={recipe}", f"--workdir={tmp_path}"]
    argv += ["--sweep", "base", "random_psi", "v2"]
    argv += [*TINY, "--shots=1", "--videos=1", "--frames=3", "--variants=ff"]
    assert cli.main(argv) == 1
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert sum(line.startswith("| base | 1 |") for line in lines) == 4
    assert sum(line.startswith("| random_psi | 1 |") for line in lines) == 4
    assert lines[-1].startswith("| v2 | | failed |")
    assert "give --config.vgg19.path=FILE" in capfd.readouterr().err
    report = tmp_path / "base" / "evaluation" / "report.json"
    assert json.loads(report.read_text())["model"]["step"] == 2
