#!/usr/bin/env bash
# Meta-training under SLURM, one process for each GPU:
#
#   sbatch --nodes=2 launch/slurm.sh --config=configs/voxceleb2.py \
#       --workdir=/shared/run --config.data.path=/shared/vox2
#
# Before the time limit, or when preempted, the run is told to stop, saves and is queued
# again; the same command resumes it. Adapt the numbers to your nodes: with more GPUs
# than episodes in a batch give --config.batch_size=N, a multiple of their number.
#SBATCH --job-name=flax-heads
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

workdir=
for ((i = 1; i <= $#; i++)); do
	case ${!i} in
	--workdir=*) workdir=${!i#*=} ;;
	--workdir) next=$((i + 1)) && workdir=${!next-} ;;
	esac
done
if [[ -z $workdir ]]; then
	echo "flax-heads: give --workdir=DIR, which the checkpoints and this script need" >&2
	exit 2
fi
newest() { ls "$workdir/checkpoints" 2>/dev/null | grep -x '[0-9]*' | sort -n | tail -1; }
before=$(newest)
rm -f "$workdir/failed.txt"

# A process that ends must not take the others' last save away: they get two minutes.
# srun does not take over the cores of a task that sbatch was asked for.
srun --kill-on-bad-exit=0 --wait=120 --cpus-per-task="${SLURM_CPUS_PER_TASK:-8}" \
	"${PYTHON:-python}" -m flax_heads.train --distributed=auto "$@"
code=$?

# One that ends with an error takes the others along, with codes of their own.
if [[ -s $workdir/failed.txt ]]; then
	read -r code why <"$workdir/failed.txt"
	echo "flax-heads: $why" >&2
fi

# Told to stop, or a process, device or node was lost (flax_heads/train.py has the codes):
# again, while that leads anywhere. Any other code is an error that would only come again.
if [[ $code == 4 || $code -gt 128 ]]; then
	if [[ $(newest) != "$before" || ${SLURM_RESTART_COUNT:-0} -lt 3 ]]; then
		scontrol requeue "$SLURM_JOB_ID"
	else
		echo "flax-heads: no new checkpoint since the last start; not queued again" >&2
	fi
fi
exit "$code"
