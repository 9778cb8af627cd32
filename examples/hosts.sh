#!/usr/bin/env bash
# Pretraining on several hosts without a scheduler: the same command on each, here over ssh.
#   examples/hosts.sh "gpu1 gpu2" base --data imagenet/ --out runs/base --procs 8
# Data and run folder are at the same place on all hosts; the first one alone writes to the run folder.
set -u

read -r -a hosts <<<"$1"
shift
master="${hosts[0]}:${PORT:-29500}"
pids=()
# one that ends early has said why; Ctrl-C reaches all of them
for number in "${!hosts[@]}"; do
  ${SSH:-ssh} "${hosts[$number]}" "cd $(printf %q "$PWD") && exec paddlemae pretrain $(printf '%q ' "$@") \
    --nodes ${#hosts[@]} --master $master --node-rank $number" &
  pids+=($!)
done
status=0
for pid in "${pids[@]}"; do
  wait "$pid" || status=$?
done
exit "$status"
