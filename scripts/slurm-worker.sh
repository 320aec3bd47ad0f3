#!/bin/bash
# A worker as a Slurm job, one GPU each; ask for as many as wanted:  sbatch --array=1-8 scripts/slurm-worker.sh
# Workers come and go as they like: when the time is over Slurm sends SIGTERM, the worker hands its segment back, and
# another one takes it. The token lies in a file that only you can read.
#SBATCH --job-name=framefarm-worker
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@60
#SBATCH --requeue
set -eu
: "${FRAMEFARM_SERVER:?where is the server? export FRAMEFARM_SERVER=https://farm.example}"
export FRAMEFARM_TOKEN_FILE=${FRAMEFARM_TOKEN_FILE:-$HOME/.config/framefarm/worker.token}
exec "${FRAMEFARM_WORKER:-framefarm-worker}" --device "${FRAMEFARM_DEVICE:-auto}" \
    --name "$(hostname -s)-${SLURM_JOB_ID:-0}"
