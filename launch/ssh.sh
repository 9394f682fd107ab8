#!/usr/bin/env bash
# Meta-training on hosts that ssh reaches, one process for each host and all its GPUs:
#
#   launch/ssh.sh "node0 node1" --config=configs/voxceleb2.py --workdir=/shared/run \
#       --config.data.path=/shared/vox2
#
# Run it in this folder, which every host needs under the same path, and the workdir.
# Ctrl-C, or SIGTERM to this script, tells every process to stop: they save together, and
# the same command resumes. Exits with the first code that is not 0 (flax_heads/train.py).
# PYTHON is the interpreter on the hosts; PORT one that is free on the first of them.
set -uo pipefail

if [[ $# -lt 2 ]]; then
	sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
	exit 2
fi
read -ra hosts <<<"$1"
shift
# ssh gives its words to a shell over there, so each is quoted for it.
train=$(printf '%q ' "${PYTHON:-python}" -m flax_heads.train "$@")
folder=$(printf '%q' "$PWD")
place() { # of a process among all: HOST:PORT,RANK/COUNT
	echo "-distributed=${hosts[0]#*@}:${PORT:-9876},$1/${#hosts[@]}"
}

told=0
stop() {
	told=1
	for i in "${!hosts[@]}"; do # [-]: the pattern must not find its own command
		ssh "${hosts[$i]}" "pkill -TERM -f -- '[-]$(place "$i")'" &
	done
}
trap stop INT TERM

processes=()
for i in "${!hosts[@]}"; do
	# Out of reach of Ctrl-C, which would cut ssh off from what it started.
	setsid ssh "${hosts[$i]}" "cd $folder && exec $train -$(place "$i")" </dev/null &
	processes+=($!)
done

code=0
for process in "${processes[@]}"; do
	wait "$process"
	one=$?
	while [[ $told == 1 ]]; do # the signal ended `wait`, not the process
		told=0
		wait "$process"
		one=$?
	done
	[[ $code != 0 ]] || code=$one
done
exit "$code"
