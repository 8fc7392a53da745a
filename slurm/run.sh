# What train.sbatch, sweep.sbatch and prepare.sbatch do: they source this file. There is nothing to edit here.
set -uo pipefail

# The warning before the time limit may come at any moment.
step= began= warned=no again=no reminder=
trap 'warned=yes again=yes; [ -z "$step" ] || warn' USR1

# Tell the step; a young one twice, as srun forgets what comes while it launches the tasks.
warn() {
    kill -USR1 "$step" 2> /dev/null
    if ((SECONDS - began < 60)); then
        { sleep 10 && kill -USR1 "$step"; } 2> /dev/null &
        reminder=$!
    fi
}

# Train one run, given the arguments of lab.train.
train() {
    copy_code
    run lab.train "$@"
}

# Train the run that stands in a plan, in the line with the number of this task of a job array.
train_line() { # plan
    local plan=${1:-} number=${SLURM_ARRAY_TASK_ID:-} line arguments
    [ -f "$COPY/plan.txt" ] || [ -f "$plan" ] ||
        fail "there is no plan '$plan': python -m lab.train -m model=nope,rope plan=sweep.txt writes one"
    [ -n "$number" ] ||
        fail "a plan is submitted as a job array: sbatch --array=1-$(grep -c '' "$plan") slurm/sweep.sbatch $plan"
    copy_code "$plan"
    line=$(sed -n "${number}p" "$COPY/plan.txt")
    [ -n "$line" ] ||
        fail "$plan has no line $number: sbatch --array=1-$(grep -c '' "$COPY/plan.txt") slurm/sweep.sbatch $plan"
    echo "line $number of $plan: $line"
    mapfile -t arguments < <(xargs -n 1 printf '%s\n' <<< "$line") # it reads quotes as a shell does, and runs nothing
    # An experiment may ask for several runs and for a table of all; this is one of them.
    run lab.train hydra.mode=RUN compare=null "${arguments[@]}"
}

# Write the blocks of a corpus, this task's part of them.
write_blocks() {
    local number=${SLURM_ARRAY_TASK_ID:-} parts=${SLURM_ARRAY_TASK_COUNT:-}
    [ -n "$number" ] || fail "blocks are written by a job array: sbatch --array=1-8 slurm/prepare.sbatch $*"
    if [ "$SLURM_ARRAY_TASK_MIN" != 1 ] || [ "$SLURM_ARRAY_TASK_MAX" != "$parts" ]; then
        fail "the array's tasks are the parts, counted from 1, all of them: sbatch --array=1-$SLURM_ARRAY_TASK_MAX" \
            "slurm/prepare.sbatch $*; what is written is not written again"
    fi
    copy_code
    run lab.prepare blocks "$@" --part "$number/$parts" --processes "${SLURM_CPUS_PER_TASK:-1}"
}

COPY_INSTALLED='
import pathlib, shutil, sys
try:
    import lab
except ImportError:
    sys.exit(f"neither beside the folder of the script is there a lab, nor is one installed for {sys.executable}")
if not (pathlib.Path(lab.__path__[0]) / "conf").is_dir():
    sys.exit("the lab is installed in place; submit the scripts that lie in its source tree")
shutil.copytree(lab.__path__[0], sys.argv[1])
'

cannot_copy() {
    rm -rf "$beside"
    fail "the code cannot be copied to $COPIES: ${reason##*: }"
}

# Make COPY, at once or not at all: a job array's tasks may start together.
copy_code() { # further file, to be kept as plan.txt
    local lab beside reason commit=unknown changed=
    [ -d "$COPY" ] && return
    reason=$(mkdir -p "$COPIES" 2>&1) && reason=$(mktemp -d "$COPY.XXXXXX" 2>&1) ||
        fail "$COPIES cannot be written on node ${SLURMD_NODENAME:-}: ${reason##*: };" \
            "choose another folder at the top of the script, or make this one writable"
    beside=$reason
    lab=$(cd "$FOLDER/.." && pwd)
    if [ -f "$lab/lab/train.py" ]; then
        reason=$(
            {
                mkdir "$beside/data" && cp -R "$lab/data/tokenizers" "$beside/data" &&
                    cp -R "$lab/lab" "$lab/conf" "$lab/pyproject.toml" "$beside"
            } 2>&1
        ) || cannot_copy
        commit=$(git -C "$lab" rev-parse HEAD 2> /dev/null) || commit=unknown
        changed=$(git -C "$lab" status --porcelain -- '*.py' '*.yaml' 2> /dev/null)
    else # written out by lab.prepare slurm: the lab is installed, perhaps in a container
        activate || fail "activate, at the top of the script, has failed"
        command -v "${PYTHON[0]}" > /dev/null ||
            { rm -rf "$beside"; fail "there is no ${PYTHON[0]} on node ${SLURMD_NODENAME:-}: see the top of the script"; }
        reason=$("${PYTHON[@]}" - "$beside/lab" 2>&1 <<< "$COPY_INSTALLED") || cannot_copy
    fi
    reason=$({ cp -R "$FOLDER" "$beside/slurm" && { [ $# = 0 ] || cp "$1" "$beside/plan.txt"; }; } 2>&1) || cannot_copy
    echo "$commit${changed:+ changed}" > "$beside/commit"
    mv -T "$beside" "$COPY" 2> /dev/null || rm -rf "$beside" # unless another task was first
    [ -d "$COPY" ] || fail "$COPY cannot be made; choose another folder at the top of the script"
}

# Run a module in every task, from the copy of the code; requeue the job if its time is up and its work is saved.
run() {
    local code
    activate || fail "activate, at the top of the script, has failed"
    export PYTHONPATH=$(cd "$COPY" && pwd)${PYTHONPATH:+:$PYTHONPATH} PYTHONSAFEPATH=1
    # Threads are part of what a continued run must have again, and by default they are the node's cores.
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
    # No --kill-on-bad-exit: ranks that have saved end with code 75 one after the other, and the last would be killed.
    # A rank that is left alone notices and ends by itself. Nor any time limit after the first has ended: it may score.
    srun --kill-on-bad-exit=0 --wait=0 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" "${PYTHON[@]}" -m "$@" &
    step=$! began=$SECONDS
    [ "$warned" = no ] || warn
    trap 'again=yes' TERM # the step gets it too: this shell waits for what it has to say
    while true; do
        again=no
        wait "$step" && code=0 || code=$?
        [ "$again" = yes ] || break
    done
    [ -z "$reminder" ] || kill "$reminder" 2> /dev/null
    # 75: it has saved. 138: the signal has killed it before it could listen; again it would be no better.
    [ "$warned" = no ] || [ "$code" != 138 ] ||
        fail "not requeued: the warning before the time limit came before the run could listen; give more --time than" \
            "the seconds of --signal at the top of the script, and the same sbatch continues"
    if [ "$warned" = no ] || [ "$code" != 75 ]; then exit "$code"; fi
    if [ "${SLURM_RESTART_COUNT:-0}" -ge "$RESTARTS" ]; then
        fail "not requeued, as RESTARTS at the top of the script is $RESTARTS; the same sbatch continues it"
    fi
    # A job array's first task has the number of the whole array.
    local job=$SLURM_JOB_ID
    if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
    echo "job $job goes back to the queue, to continue"
    scontrol requeue "$job" || fail "job $job cannot be requeued; the same sbatch continues it"
    exit 75
}

fail() { # message
    echo "error: $*" >&2
    exit 1
}
