#!/usr/bin/env bash
# Pretraining on several hosts under Slurm: sbatch examples/slurm.sh
# Slurm sends SIGUSR1 five minutes before the time is up (a preemption: SIGTERM); the training finishes its step, saves
# and ends with status 75; then the job queues itself again and resumes.
#SBATCH --job-name=mae
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -u

PROCS=${PROCS:-8} # of each host
PORT=${PORT:-29500}
read -r -a TRAINING <<<"${TRAINING:-base --data imagenet/ --out runs/base}"

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# single quotes: each task has its own SLURM_NODEID
srun bash -c 'exec paddlemae pretrain "$@" --node-rank "$SLURM_NODEID"' _ \
  "${TRAINING[@]}" --procs "$PROCS" --nodes "$SLURM_NNODES" --master "$first:$PORT"
status=$?
if [ "$status" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
