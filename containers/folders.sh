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
named=$(pwd -L) # the name that the user knows it by, where that leads over a link
[ "$here" != / ] || fail "a container cannot be given /" "go to the folder that holds recipes and \`runs\`" 2
# Inside, `runs` is reached under the name it has outside, so `runs` may be a link to a scratch disk, or VLARL_RUNS another folder.
runs_inside=$(realpath -m "$here/runs")
runs=$(realpath -m "${VLARL_RUNS:-$here/runs}")
cache=$(realpath -m "${VLARL_CACHE:-${HOME:?}/.cache/vlarl}")
data=
if [ -n "${VLARL_DATA:-}" ]; then
    data=$(realpath -e "$VLARL_DATA") || fail "there is no folder $VLARL_DATA" "correct VLARL_DATA"
fi
case "$here$named$runs$runs_inside$cache$data" in
*[,\"]*) fail "a folder has a comma or a quote in its name" "rename it: containers cannot mount it" 2 ;;
esac

mounts=(
    "type=bind,source=$here,destination=$here"
    "type=bind,source=$runs,destination=$runs_inside"
    "type=bind,source=$cache,destination=/cache"
)
[ -z "$data" ] || mounts+=("type=bind,source=$data,destination=/data,readonly")
if [ "$named" != "$here" ]; then
    mounts+=("type=bind,source=$here,destination=$named")
    [ -L "$here/runs" ] || mounts+=("type=bind,source=$runs,destination=$named/runs")
fi

# Variables of the host that reach the container; no other one does, so no password or token.
passed=(MUJOCO_EGL_DEVICE_ID MUJOCO_GL NO_COLOR HF_HUB_OFFLINE VLARL_INSTRUCTIONS
    RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT NCCL_SOCKET_IFNAME GLOO_SOCKET_IFNAME
    SLURM_JOB_ID SLURM_JOB_NODELIST SLURM_JOB_PARTITION SLURM_RESTART_COUNT)

# Folders under whose names the container sees what the host has there; a wrapper adds what its runtime shares.
seen=("$here" "$named" "$runs_inside" /cache /data)

is_seen() {
    local name root found=0
    # Both as it is written and where links lead to.
    for name in "$(realpath -ms -- "$1")" "$(realpath -m -- "$1")"; do
        for root in "${seen[@]}"; do
            case $name/ in "$root"/*)
                found=$((found + 1))
                break
                ;;
            esac
        done
    done
    [ "$found" -eq 2 ]
}

unseen() {
    fail "the container does not see $1: $2" \
        "stay below the folder you stand in; VLARL_RUNS=DIR puts \`runs\` elsewhere, VLARL_DATA=DIR is /data inside, to read" 2
}

check_output() {
    case $1 in
    "~/.cache/vlarl" | "~/.cache/vlarl/"*) return ;; # the image's own name for /cache
    "~"*) ;;
    *) if is_seen "$1"; then return; fi ;;
    esac
    unseen "$1" "what is written there would be gone with it"
}

check_other() {
    case $1 in /dev/* | /etc/* | /opt/vlarl/* | /recipes/* | /usr/*) return ;; esac # of every container, or of the image
    is_seen "$1" || unseen "$1" "it has other folders under such names"
}

# Stops at an argument that names a place outside, rather than lose what a run writes there.
check_paths() {
    local word previous=
    for word in "$@"; do
        case $previous in --runs | --out | --cache | --collect) word="$previous=$word" ;; esac
        previous=$word
        word=${word#--set=}
        case $word in
        --runs=* | --out=* | --cache=* | --collect=* | run.folder=* | run.cache=*) check_output "${word#*=}" ;;
        *=/* | *=../*) check_other "${word#*=}" ;;
        /* | ../*) check_other "$word" ;;
        esac
    done
}

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
