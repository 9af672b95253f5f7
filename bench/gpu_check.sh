#!/usr/bin/env bash
# All that a CUDA machine without a network tells of trainings and predictions, in eight minutes, as one JSON file.
#
#   bench/gpu_check.sh wheels WHEELS [PYTHON_VERSION]    where there is a network: fetch what a plain image lacks
#   bench/gpu_check.sh run WHEELS [--output FILE ...]    on the machine: install that beside what is there, and measure
#
# A plain image has torch, numba, scipy, pandas, pyarrow, scikit-image, scikit-learn and matplotlib. What is fetched is
# less than 60 MiB; libraries that only read files (SimpleITK, nibabel) are not needed and stand-ins take their places.
set -euo pipefail
cd "$(dirname "$0")/.."

# Pure Python, some of it without wheels on the index: built here.
PURE=(nnunetv2==2.8.1 batchgenerators batchgeneratorsv2 dynamic-network-architectures acvl-utils safetensors
      annotated-types typing-inspection cloudpickle lazy-loader tqdm einops)
# Of the version of Python and the kind of machine.
COMPILED=(blosc2 ndindex numexpr msgpack pydantic-core deflate)

usage() { sed -n '2,7p' "$0" >&2; exit 2; }

[ $# -ge 2 ] || usage
mode=$1 wheels=$2
shift 2
case "$mode" in
  wheels)
    python=${1:-$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')}
    mkdir -p "$wheels"
    python3 -m pip wheel --quiet --no-deps --wheel-dir "$wheels" "${PURE[@]}"
    platforms=()
    for glibc in 2_17 2_24 2_27 2_28 2_31 2_34; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
    core=$(python3 -m pip download --quiet --no-deps --dest "$wheels" pydantic >/dev/null && cd "$wheels" && \
           unzip -p pydantic-2*.whl '*/METADATA' | sed -n 's/^Requires-Dist: pydantic-core==//p')
    for name in "${COMPILED[@]}"; do
      [ "$name" = pydantic-core ] && name="pydantic-core==$core"
      python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version "$python" --implementation cp \
        "${platforms[@]}" --platform manylinux2014_x86_64 --dest "$wheels" "$name"
    done
    du -sm "$wheels"
    ;;
  run)
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    if compgen -G "$wheels/*.whl" >/dev/null; then
      python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl
    fi
    PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}" python3 -m bench.gpu_check "$@"
    ;;
  *) usage ;;
esac
