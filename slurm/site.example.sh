# shellcheck shell=bash disable=SC2034
# Copy to slurm/site.sh and fill in these six lines; `sinfo` and your cluster's manual know the values.
ACCOUNT=FILL_IN                       # who is charged; '' where the cluster has no accounts
PARTITION=FILL_IN                     # queue of the nodes with GPUs
GPUS_PER_NODE=FILL_IN                 # 4, or with a type a100:4; 0 for nodes without GPUs
TIME_LIMIT=04:00:00                   # of one start: a job that needs more requeues itself
ACTIVATE='source .venv/bin/activate'  # what makes `mmgenre` a command
SCRATCH=/tmp                          # disk of the node itself, for a copy of prepared data; '' for none

# These can stay as they are.
CPUS_PER_GPU=8        # cores of a training process and its loaders; fewer where nodes have fewer
MIXED_PRECISION=bf16  # fp16 on GPUs before Ampere; no for fp32
SIGNAL_SECONDS=120    # so long before the time limit a job saves and requeues itself
LAUNCHER=srun         # or accelerate; slurm/README.md has what it costs
