"""Does the input keep ahead of the step? `python -m benchmarks.input_pipeline --data-dir D`.

Batches of a prepared dataset alone, nothing else running: per second, and how many
cores it takes to feed a step of `--step-seconds`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

from benchmarks import report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    report.add_flags(parser)
    parser.add_argument("--data-dir", required=True, help="of `flax-heads prepare`")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--num-support", type=int, default=8)
    parser.add_argument("--batches", type=int, default=50, help="of each round")
    parser.add_argument(
        "--step-seconds", type=float, help="of `benchmarks.step`, to compare with"
    )
    flags = parser.parse_args()
    from data_pipeline.input_pipeline import Records  # imports TensorFlow

    records = Records(flags.data_dir, "train")
    batches = records.batches(0, 0, flags.batch_size, flags.num_support)
    start = time.perf_counter()
    next(batches)
    first = time.perf_counter() - start
    for _ in range(flags.batches):  # until read-ahead buffers are in their steady state
        next(batches)
    rates, cpu = [], []
    for _ in range(flags.rounds):
        start, busy = time.perf_counter(), sum(os.times()[:2])
        for _ in range(flags.batches):
            next(batches)
        rates.append(flags.batches / (time.perf_counter() - start))
        cpu.append((sum(os.times()[:2]) - busy) / flags.batches)
    images = 2 * flags.batch_size * (flags.num_support + 1)
    rate, core_seconds = statistics.median(rates), statistics.median(cpu)
    row = {
        "first_batch_s": first,
        "batches_per_s": rate,
        "min": min(rates),
        "max": max(rates),
        "images_per_s": rate * images,
        "core_seconds_per_batch": core_seconds,
    }
    if flags.step_seconds:
        row["times_the_step"] = rate * flags.step_seconds
        row["cores_needed"] = core_seconds / flags.step_seconds
    about = {
        "data": str(records.path),
        "size, batch, K": (records.size, flags.batch_size, flags.num_support),
        **report.machine(),
    }
    report.show("input pipeline alone", [row], about, flags.json)


if __name__ == "__main__":
    main()
