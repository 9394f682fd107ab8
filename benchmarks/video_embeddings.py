"""What W costs as it grows: `python -m benchmarks.video_embeddings`.

The same step with M = 1,000 to 1,000,000 training videos, each in its own process.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks import in_turn, report
from flax_heads import config_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    report.add_flags(parser)
    parser.add_argument("--config", default="configs/synthetic.py:small")
    parser.add_argument(
        "--num-videos", type=int, nargs="+", default=[10**3, 10**4, 10**5, 10**6]
    )
    flags = parser.parse_args()
    config = config_file.load(flags.config)
    shared = [f"--config={flags.config}", f"--batch-size={config.batch_size}"]
    shared += [f"--num-support={config.num_support}", "--torch", "--serve=jax"]
    command = [sys.executable, "-m", "benchmarks.step", *shared]
    candidates = {f"{m:,}": [*command, f"--num-videos={m}"] for m in flags.num_videos}
    rows = in_turn.compare(candidates, flags.rounds)
    width = config.model.embedder.channels[-1]
    for row, m in zip(rows, flags.num_videos):
        row.pop("flops", None)
        row["w_and_moment_mib"] = 2 * m * width * 4 / 2**20
    about = {"config": flags.config, "N": width, **report.machine()}
    report.show("meta-training step against M", rows, about, flags.json)


if __name__ == "__main__":
    main()
