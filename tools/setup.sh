#!/bin/sh
# Makes everything that vlarl needs on a Linux x86-64 machine: system GL libraries, a Python, the environment.
#   tools/setup.sh [EXTRAS]     EXTRAS: comma-separated extras of pyproject.toml, such as `dev` or `dev,libero`
#   tools/setup.sh --python     only finds (or installs) a Python and prints its name
# Variables: PYTHON (interpreter), VENV (folder, default .venv), VARIANT (cpu or cuda, default by nvidia-smi),
# TORCH_CPU_INDEX (index asked for the CPU build of torch when the configured ones have none).
set -eu
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}

say() { echo "setup: $*" >&2; }

# `sudo` when root is needed and granted without a password, nothing when already root.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

may_install() {
    command -v apt-get >/dev/null 2>&1 && as_root true 2>/dev/null
}

# A name on PATH may be a version manager's stub that cannot run, and Debian ships Pythons without ensurepip.
fits() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        fits "$PYTHON" && echo "$PYTHON"
        return
    fi
    for candidate in "$venv/bin/python" python3.11 python3.12 python3; do
        if fits "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

python_from_apt() {
    may_install || return 1
    say "no Python 3.11 or 3.12 on PATH; asking apt-get for one"
    as_root apt-get update -qq >&2 || return 1
    apt_install ca-certificates python3.11-venv 2>/dev/null || apt_install ca-certificates python3.12-venv 2>/dev/null
}

# Distributions move on to Pythons that mujoco 3.1.6 has no wheel for; uv brings one of its own. Prints its path.
python_from_uv() {
    if ! uv=$(command -v uv); then
        python3 -c 'import venv, ensurepip' 2>/dev/null || { may_install && apt_install python3 python3-venv; } || return 1
        uv=$PWD/build/uv/bin/uv
        [ -x "$uv" ] || { python3 -m venv build/uv && build/uv/bin/pip install -q -r tools/uv.txt; } >&2 || return 1
    fi
    say "asking uv for Python 3.12"
    UV_PYTHON_INSTALL_BIN=0 "$uv" python install --no-progress 3.12 >&2 && "$uv" python find 3.12
}

if ! python=$(find_python); then
    if [ -n "${PYTHON:-}" ]; then
        say "PYTHON=$PYTHON is not a Python 3.11 or 3.12 with the modules venv and ensurepip"
        exit 4
    fi
    if ! { python_from_apt && python=$(find_python); } && ! { python=$(python_from_uv) && fits "$python"; }; then
        say "vlarl needs Python 3.11 or 3.12 with venv (mujoco 3.1.6 has no wheel for a later one); none is on PATH"
        say "hint: install one (\`apt-get install python3.11-venv\` on Debian 12, \`uv python install 3.12\` elsewhere)"
        say "      and name it: \`make ... PYTHON=/path/to/python3.12\`"
        exit 4
    fi
fi

if [ "${1:-}" = --python ]; then
    echo "$python"
    exit
fi

missing=$("$python" tools/system_libraries.py) || true
if [ -n "$missing" ] && may_install; then
    say "installing system libraries for rendering: $missing"
    as_root apt-get update -qq >&2 || say "apt-get update failed; trying with the lists at hand"
    # shellcheck disable=SC2086  # several packages
    apt_install $missing || true
fi
if ! "$python" tools/system_libraries.py >/dev/null; then
    say "MuJoCo cannot render on this machine: no system library for it loads"
    say "hint: as root, \`apt-get install libosmesa6\` or \`apt-get install libegl1 libegl-mesa0 libgl1\`; then again"
    exit 4
fi

exec "$python" tools/environment.py --venv "$venv" --variant "${VARIANT:-auto}" --extras "${1:-}"
