#!/bin/bash
# One command of spatialt2i on the nodes of a Slurm job. Call it in the repository's folder, after `make setup`:
#   sbatch --nodes=4 cluster/slurm.sh policy train flux_dev run_dir=/shared/flux_dev ...
# A job that ends at its time limit, or is requeued, continues from its newest checkpoint when it is submitted again.
#SBATCH --job-name=spatialt2i
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
#SBATCH --signal=TERM@120
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:?submit this script with sbatch}"
export PATH="$PWD/.venv/bin:$PATH"
ulimit -n 65536 || echo "the limit of open files stays at $(ulimit -n)"

cpus="${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}"
head="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)"
# The name of a machine may stand for 127.0.1.1 on itself, so the other nodes get its address.
address="$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname -I | cut -d ' ' -f 1):6379"

ray get-auth-token --generate > /dev/null          # in ~/.ray, which the nodes share
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export RAY_TMPDIR="/tmp/ray-$USER"                 # /tmp/ray may belong to another user of this node
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600  # seconds until all nodes must have started
export SPATIALT2I_MAX_NODES="any=${SLURM_JOB_NUM_NODES}x${cpus}x${SLURM_GPUS_ON_NODE:-0}"

# Each node starts Ray; the first one runs the command and stops Ray everywhere when it ends.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task="$cpus" \
  ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" --num-cpus="$cpus" \
  --metrics-export-port=8080 -- spatialt2i "$@" "ray_address=$address"
