#!/usr/bin/env bash
# Meta-training under SLURM, one process for each GPU:
#
#   sbatch --nodes=8 launch/slurm.sh --config=configs/voxceleb2.py \
#       --workdir=/shared/run --config.data.path=/shared/vox2
#
# Before the time limit, or when preempted, the run is told to stop, saves and is queued
# again; the same command resumes it. Adapt the numbers to your nodes.
#SBATCH --job-name=flax-heads
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

# A process that ends must not take the others' last save away: they get two minutes.
srun --kill-on-bad-exit=0 --wait=120 \
	"${PYTHON:-python}" -m flax_heads.train --distributed=auto "$@"
code=$?

# Told to stop, or a process, device or node was lost (flax_heads/train.py has the codes).
# Any other code is an error that would only come again.
if [[ $code == 4 || $code -gt 128 ]]; then
	scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
