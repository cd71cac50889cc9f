#!/bin/sh
# Runs the whole suite and says on what: run.sh PYTHON [PYTEST_ARGUMENT...]
set -eu
python=$1
shift

openblas() {
    ls /usr/lib/*-linux-gnu/openblas-pthread/libblas.so.3 2>/dev/null | head -n 1
}

blas="numpy's own"
if [ "$(uname -s)" = Linux ] && "$python" -c 'import mlx.core' 2>/dev/null; then
    # MLX's CPU wheel for Linux carries a reference BLAS, which is slow.
    if [ -z "$(openblas)" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        export DEBIAN_FRONTEND=noninteractive
        { apt-get update && apt-get install --yes --no-install-recommends libopenblas0-pthread; } >/dev/null 2>&1 || true
    fi
    if [ -n "$(openblas)" ]; then
        blas="MLX with OpenBLAS"
        LD_PRELOAD=$(openblas)
        export LD_PRELOAD
    else
        blas="MLX with its reference BLAS (slow: Debian's libopenblas0-pthread could not be installed)"
    fi
fi

# The page is tested in Debian's Chromium and WebKit.
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! { command -v chromium && command -v WebKitWebDriver; } >/dev/null && "$python" -c 'import playwright' 2>/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update && apt-get install --yes --no-install-recommends chromium webkit2gtk-driver xvfb; } >/dev/null 2>&1 || true
fi

"$python" - "$blas" <<'PYTHON'
import importlib.metadata as metadata
import platform
import sys

from mlx_colbert.kernels import get_encoder_ops

print(f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, numpy {metadata.version('numpy')}")
try:
    print(f"MLX {metadata.version('mlx')}, device {get_encoder_ops('mlx').device()}, BLAS on the CPU: {sys.argv[1]}")
except ImportError as error:
    print(f"numpy only: {error}")
PYTHON

# Without the compiled modules, every process that a test starts compiles them again.
unset PYTHONDONTWRITEBYTECODE

# The suite waits for the disk thousands of times, so its files are in memory, if there are 4 GB for them.
if [ "$(df -Pk /dev/shm 2>/dev/null | awk 'END { print int($4 / 1000000) }')" -ge 4 ] && [ -w /dev/shm ]; then
    TMPDIR=$(mktemp -d /dev/shm/mlx-colbert-tests-XXXXXX)
    chmod 755 "$TMPDIR"  # as /tmp, for a test with another user
    export TMPDIR
    trap 'rm -rf "$TMPDIR"' EXIT
    trap 'exit 130' INT TERM
fi
"$python" -m pytest "$@"
