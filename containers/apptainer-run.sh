#!/usr/bin/env bash
# vlarl in its Apptainer image: the arguments, the folder and the exit status of `vlarl` itself.
#   containers/apptainer-run.sh [--print] train recipes/smoke.yaml    --print: show the command, run nothing
# Variables, all optional:
#   VLARL_IMAGE    image file (./vlarl.sif)
#   VLARL_RUNS     where run folders go (./runs)
#   VLARL_CACHE    warm starts, demonstrations, downloaded checkpoints (~/.cache/vlarl); /cache inside
#   VLARL_DATA     a folder to read from, /data inside
#   VLARL_GPUS     `all`, or numbers such as `0,1`; none without it
# The folder one stands in is mounted under its own name, so relative paths mean the same inside. The home folder is
# not mounted: packages in ~/.local would shadow those of the image.
set -euo pipefail
scripts=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
. "$scripts/folders.sh"

image=${VLARL_IMAGE:-vlarl.sif}
gpus=${VLARL_GPUS:-}
seen+=(/tmp /var/tmp) # Apptainer shares them
check_paths "$@"

if [ ! -e "$image" ]; then
    [ -n "$print_only" ] ||
        fail "there is no image $image" "apptainer build $image containers/vlarl.def (docs/hpc.md), or name another in VLARL_IMAGE"
    VLARL_IMAGE_DIGEST=${VLARL_IMAGE_DIGEST:-sha256:DIGEST}
elif [ -z "${VLARL_IMAGE_DIGEST:-}" ] && [ -f "$image" ]; then
    VLARL_IMAGE_DIGEST=sha256:$(sha256sum "$image" | cut -d ' ' -f 1)
fi

command=(apptainer run --cleanenv --no-home --pwd "$here")
if [ -n "$gpus" ]; then
    command+=(--nv)
    passed+=(CUDA_VISIBLE_DEVICES)
    if [ "$gpus" != all ]; then CUDA_VISIBLE_DEVICES=$gpus; fi
fi
for mount in "${mounts[@]}"; do command+=(--mount "$mount"); done
# Not by --env, which splits values at commas.
variables=()
for name in "${passed[@]}" VLARL_IMAGE_DIGEST; do
    if [ -n "${!name:-}" ]; then variables+=("APPTAINERENV_$name=${!name}"); fi
done
run_or_print env "${variables[@]}" "${command[@]}" "$image" "$@"
