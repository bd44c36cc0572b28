#!/usr/bin/env bash
# vlarl in its Docker image: the arguments, the folder and the exit status of `vlarl` itself.
#   containers/docker-run.sh [--print] train recipes/smoke.yaml       --print: show the command, run nothing
# Variables, all optional:
#   VLARL_IMAGE    image (vlarl:cpu)
#   VLARL_RUNS     where run folders go (./runs)
#   VLARL_CACHE    warm starts, demonstrations, downloaded checkpoints (~/.cache/vlarl); /cache inside
#   VLARL_DATA     a folder to read from, /data inside
#   VLARL_GPUS     `all`, or numbers such as `0,1`; none without it
#   VLARL_NETWORK  Docker network (none; `bridge` to fetch a checkpoint from a hub; `host` for one of several processes)
#   VLARL_SHM      size of /dev/shm (1g)
# The folder one stands in is mounted under its own name, so relative paths mean the same inside.
set -euo pipefail
scripts=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
. "$scripts/folders.sh"

image=${VLARL_IMAGE:-vlarl:cpu}
gpus=${VLARL_GPUS:-}
check_paths "$@"

if [ -z "${VLARL_IMAGE_DIGEST:-}" ]; then
    if ! VLARL_IMAGE_DIGEST=$(docker image inspect --format '{{.Id}}' "$image" 2>/dev/null); then
        [ -n "$print_only" ] ||
            fail "Docker has no image $image, or does not answer" "docker build -t $image . (docs/hpc.md), or name another in VLARL_IMAGE"
        VLARL_IMAGE_DIGEST=sha256:DIGEST
    fi
fi

# Whoever asks for a network means to fetch; the image itself stays off it.
case ${VLARL_NETWORK:-none} in none) ;; *) HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-0} ;; esac
network=none
# Several processes talk over the host's network.
if [ "${WORLD_SIZE:-1}" != 1 ]; then network=host; fi

command=(docker run --rm --init --stop-timeout 600 --user "$(id -u):$(id -g)")
command+=(--network "${VLARL_NETWORK:-$network}" --shm-size "${VLARL_SHM:-1g}" --cap-drop ALL --security-opt no-new-privileges)
if [ -t 0 ] && [ -t 1 ]; then command+=(--interactive --tty); fi
case $gpus in
"") ;;
all)
    command+=(--gpus all)
    passed+=(CUDA_VISIBLE_DEVICES)
    ;;
# Docker numbers the cards handed in from 0 again, so a mask of the host would hide them. The quotes are Docker's.
*) command+=(--gpus "\"device=$gpus\"") ;;
esac
for mount in "${mounts[@]}"; do command+=(--mount "$mount"); done
for name in "${passed[@]}" VLARL_IMAGE_DIGEST; do
    if [ -n "${!name:-}" ]; then command+=(--env "$name=${!name}"); fi
done
run_or_print "${command[@]}" --workdir "$here" "$image" "$@"
