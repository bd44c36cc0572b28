# Sourced by the two wrappers: which folders of the host the container sees, and `run_or_print`.
# Sets: here, runs, runs_inside, cache, data (empty when none is asked for), and `mounts`, for --mount.
# shellcheck shell=bash disable=SC2034

fail() {
    printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
    exit "${3:-4}"
}

print_only=
if [ "${1:-}" = --print ]; then
    print_only=1
    shift
fi

here=$(pwd -P)
# Inside, `runs` is reached under the name it has outside, so `runs` may be a link to a scratch disk, or VLARL_RUNS another folder.
runs_inside=$(realpath -m "$here/runs")
runs=$(realpath -m "${VLARL_RUNS:-$here/runs}")
cache=$(realpath -m "${VLARL_CACHE:-${HOME:?}/.cache/vlarl}")
data=
if [ -n "${VLARL_DATA:-}" ]; then
    data=$(realpath -e "$VLARL_DATA") || fail "there is no folder $VLARL_DATA" "correct VLARL_DATA"
fi
case "$here$runs$runs_inside$cache$data" in
*[,\"]*) fail "a folder has a comma or a quote in its name" "rename it: containers cannot mount it" 2 ;;
esac

mounts=(
    "type=bind,source=$here,destination=$here"
    "type=bind,source=$runs,destination=$runs_inside"
    "type=bind,source=$cache,destination=/cache"
)
[ -z "$data" ] || mounts+=("type=bind,source=$data,destination=/data,readonly")

# Variables of the host that reach the container; no other one does, so no password or token.
passed=(MUJOCO_EGL_DEVICE_ID MUJOCO_GL NO_COLOR HF_HUB_OFFLINE
    SLURM_JOB_ID SLURM_JOB_NODELIST SLURM_JOB_PARTITION SLURM_RESTART_COUNT)

# Replaces this shell, so that every signal reaches the container's runtime, and its exit status is ours.
run_or_print() {
    if [ -n "$print_only" ]; then
        printf '%q ' "$@" | sed 's/ $//'
        echo
        exit
    fi
    mkdir -p "$runs" "$runs_inside" "$cache"
    exec "$@"
}
