# shellcheck shell=bash
# What `submit` and the jobs share. All of them run in the repository's folder.
set -euo pipefail

refuse() {
    printf '%s: error: %s\n' "${SLURM_JOB_NAME:-slurm/submit}" "$*" >&2
    exit 2
}

load_site() {
    [ -r slurm/site.sh ] ||
        refuse "there is no slurm/site.sh in $PWD; be in the repository's folder, copy slurm/site.example.sh to slurm/site.sh and fill it in"
    # shellcheck source=slurm/site.example.sh
    source slurm/site.sh
    local name
    for name in ACCOUNT PARTITION GPUS_PER_NODE TIME_LIMIT ACTIVATE SCRATCH; do
        [ "${!name-FILL_IN}" != FILL_IN ] || refuse "$name is not filled in in slurm/site.sh"
    done
    num_gpus=${GPUS_PER_NODE##*:}
    [[ $num_gpus =~ ^[0-9]+$ ]] ||
        refuse "GPUS_PER_NODE is '$GPUS_PER_NODE' in slurm/site.sh; it must be a number, or a type and a number such as a100:4"
}

# What every job does first.
start_job() {
    load_site
    # This shell must outlive what it runs, to requeue it. Not ignored: srun would inherit that.
    trap : TERM USR1
    set +u # activation scripts read variables that are not set
    eval "$ACTIVATE" || refuse "ACTIVATE fails in slurm/site.sh: $ACTIVATE"
    set -u
    command -v mmgenre >/dev/null ||
        refuse "there is no command mmgenre after ACTIVATE of slurm/site.sh, which is: $ACTIVATE"
    export HF_HUB_OFFLINE=1 WANDB_MODE=${WANDB_MODE:-offline}
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}
    export ACCELERATE_MIXED_PRECISION=$MIXED_PRECISION
    if [ "$num_gpus" = 0 ]; then export ACCELERATE_USE_CPU=true; fi
    job=$SLURM_JOB_ID
    # The id of an array's last task means the whole array.
    if [ -n "${SLURM_ARRAY_TASK_ID-}" ]; then job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
    printf '== job %s, start %s, on %s\n' "$job" "$((${SLURM_RESTART_COUNT:-0} + 1))" "$SLURM_JOB_NODELIST"
}

# An address of this node, the job's first, and a port that no other job of the node has.
choose_rendezvous() {
    MASTER_ADDR=$(scontrol show node "$SLURMD_NODENAME" | grep -oP 'NodeAddr=\K\S+') # names may not resolve
    MASTER_PORT=$((10000 + SLURM_JOB_ID * 10 % 20000))
    while (: <"/dev/tcp/$MASTER_ADDR/$MASTER_PORT") 2>/dev/null; do MASTER_PORT=$((MASTER_PORT + 1)); done
    export MASTER_ADDR MASTER_PORT
}

# One task a GPU: each process gets signals and gives its exit status without a launcher between.
run_ranks() {
    # A lost task must not take the others along while they still write: they notice by themselves.
    # shellcheck disable=SC2016
    srun --kill-on-bad-exit=0 --cpus-per-task="$SLURM_CPUS_PER_TASK" bash -c '
        if [ "$SLURM_NTASKS" -gt 1 ]; then
            export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
        fi
        exec "$@"' rank "$@"
}

# One task a node, which starts the node's processes. Its own status is 1 whatever theirs are.
run_launchers() {
    export PET_SHUTDOWN_TIMEOUT=$SIGNAL_SECONDS num_processes=$SLURM_NTASKS
    # USR1 would kill the launcher; its processes get it from Slurm themselves.
    # shellcheck disable=SC2016
    srun --kill-on-bad-exit=0 --ntasks="$SLURM_NNODES" --ntasks-per-node=1 \
        --cpus-per-task="$((SLURM_CPUS_PER_TASK * SLURM_NTASKS_PER_NODE))" bash -c '
        trap "" USR1
        exec accelerate launch --config_file accelerate_configs/multi_node.yaml \
            --num_machines "$SLURM_NNODES" --machine_rank "$SLURM_NODEID" \
            --num_processes "$num_processes" --main_process_ip "$MASTER_ADDR" \
            --main_process_port "$MASTER_PORT" --mixed_precision "$ACCELERATE_MIXED_PRECISION" \
            "$@"' launcher "$@"
}

# Give the job back to the queue, unless somebody cancelled it or Slurm has done so already.
requeue() {
    local state
    state=$(scontrol show job "$job" | grep -oP 'JobState=\K\S+')
    if [ "$state" = RUNNING ]; then
        echo "== $1: requeued"
        scontrol requeue "$job"
        sleep infinity # until Slurm ends this start; anything else would race with it
    fi
    echo "== $1; the job is $state, so not requeued"
}

# End the job by the status of what it ran, or requeue it.
#   end_job STATUS MARK_BEFORE MARK_AFTER    the marks differ if work was saved in this start
end_job() {
    case $1 in
        0) ;;
        75 | 138 | 143) requeue "asked to stop" ;; # 128 + USR1 or TERM: before it could listen
        137) if [ "$2" != "$3" ]; then requeue "a process was killed"; fi ;;
        1) if [ "$LAUNCHER" = accelerate ] && [ "$2" != "$3" ]; then requeue "something broke"; fi ;;
    esac
    exit "$1"
}

last_checkpoint() { readlink "$1/checkpoints/last" || true; }

# train RUN [FLAG ...]    train.py, after `mmgenre doctor`; returns only when the run is complete
train() {
    local run=$1 status=0 before arguments
    shift
    before=$(last_checkpoint "$run")
    arguments=(--output_dir "$run" --resume_from_checkpoint auto "$@")
    if [ -n "$SCRATCH" ]; then arguments+=(--scratch_dir "$SCRATCH"); fi
    choose_rendezvous
    run_ranks mmgenre doctor --signal_seconds "$SIGNAL_SECONDS" \
        --time_left "$(squeue --noheader --jobs "$job" --format %L)" "${arguments[@]}" || status=$?
    if [ "$status" = 0 ]; then
        if [ "$LAUNCHER" = accelerate ] && [ "$SLURM_NTASKS" -gt 1 ]; then
            run_launchers train.py "${arguments[@]}" || status=$?
        else
            run_ranks python train.py "${arguments[@]}" || status=$?
        fi
    fi
    [ "$status" = 0 ] || end_job "$status" "$before" "$(last_checkpoint "$run")"
}
