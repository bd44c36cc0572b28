#!/bin/sh
# The steps that make an image, one argument each. Dockerfile and vlarl.def both use them, so both images hold the same.
#   install.sh libraries                      Python and the system libraries for rendering
#   install.sh tools                          what only the building needs
#   install.sh environment VARIANT            /opt/vlarl with the locked packages; VARIANT: cpu or cuda
#   install.sh project                        vlarl itself, as a wheel
#   install.sh record VARIANT REVISION BASE   folders, user, /etc/vlarl/build.json
#   install.sh check                          an image that cannot run the smoke recipe is not made
set -eu
venv=/opt/vlarl
source=/usr/src/vlarl
export DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 PIP_DISABLE_PIP_VERSION_CHECK=1

apt_install() {
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    # Lists and logs hold times: with them no two images would be equal.
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/aux-cache /var/log/apt /var/log/*.log
}

# Compiled files that carry no time and are never compared with their source: the image is read-only.
compile() {
    "$venv/bin/python" -m compileall -qq -j 0 --invalidation-mode unchecked-hash "$@"
}

case ${1:-} in
libraries)
    # OSMesa renders without any device; EGL renders on a GPU, or in software through Mesa. OpenCV needs GLib.
    set -- libosmesa6 libegl1 libegl-mesa0 libgl1 libglib2.0-0
    command -v python3 >/dev/null || set -- "$@" python3
    apt_install "$@"
    # NVIDIA's own libraries come from the host's driver; this tells EGL to look for them.
    icd=/usr/share/glvnd/egl_vendor.d/10_nvidia.json
    [ -e "$icd" ] ||
        printf '{"file_format_version": "1.0.0", "ICD": {"library_path": "libEGL_nvidia.so.0"}}\n' >"$icd"
    ;;
tools)
    python3 -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv
    ;;
environment)
    cd "$source"
    python3 tools/environment.py --venv "$venv" --variant "$2" --extras libero --no-project
    lock=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["lock"])' "$venv/vlarl-environment.json")
    # Where the CPU build cannot be had, set-up on a workstation takes the CUDA build; an image must be what it says.
    case $lock in
    "$2"-*) ;;
    *)
        echo "install: no $2 build of torch to be had; the environment follows locks/$lock" >&2
        exit 4
        ;;
    esac
    mkdir -p "$venv/lib/locks"
    cp "locks/$lock" "$venv/lib/locks/"
    # A few packages ship templates that are no Python.
    compile "$venv/lib" || true
    ;;
project)
    cd "$source"
    "$venv/bin/python" -m pip install -q --no-deps --no-index --no-build-isolation .
    "$venv/bin/python" -m pip check
    compile "$venv"/lib/python3*/site-packages/vlarl
    ;;
record)
    # Any uid may be chosen at run time, so the writable folders are open to all, like /tmp.
    mkdir -p /runs /cache /data /home/vlarl/.cache /etc/vlarl
    chmod 1777 /runs /cache /home/vlarl /home/vlarl/.cache
    ln -sfn /cache /home/vlarl/.cache/vlarl
    ln -sfn "$(echo "$venv"/lib/python3*/site-packages/vlarl/shipped_recipes)" /recipes
    id vlarl >/dev/null 2>&1 || useradd --uid 10001 --user-group --no-create-home --home-dir /home/vlarl vlarl
    rm -rf /var/log/lastlog /var/log/faillog
    "$venv/bin/python" - "$@" >/etc/vlarl/build.json <<'PYTHON'
import hashlib, json, pathlib, subprocess, sys

_, variant, revision, base = sys.argv[1:]
[lock] = pathlib.Path("/opt/vlarl/lib/locks").glob("*.txt")
query = subprocess.run(["dpkg-query", "-W", "-f", "${Package} ${Version}\n"], capture_output=True, text=True, check=True)
record = {
    "variant": variant,
    "revision": revision or None,
    "base": base,
    "lock": {"name": lock.name, "sha256": hashlib.sha256(lock.read_bytes()).hexdigest()},
    "system_packages": dict(line.split() for line in query.stdout.splitlines()),
}
print(json.dumps(record, indent=2, sort_keys=True))
PYTHON
    ;;
check)
    # `apptainer test` hands the host's TMPDIR in, which the image need not have.
    [ -d "${TMPDIR:-/tmp}" ] || unset TMPDIR
    folder=$(mktemp -d)
    # Else files of the user who builds would stay in /tmp and /cache, where another could not write them.
    export TMPDIR="$folder" NUMBA_CACHE_DIR="$folder/numba" MPLCONFIGDIR="$folder/matplotlib"
    vlarl --version
    vlarl doctor --container
    vlarl train smoke --runs "$folder" --set run.cache="$folder" --display plain
    rm -rf "$folder"
    ;;
*)
    sed -n '2,8p' "$0" >&2
    exit 2
    ;;
esac
