#!/bin/sh
# Installs torch for machines without a GPU: torch.sh PYTHON [INDEX]
# It takes the CPU wheel (0.2 GB) from an index that pip is configured with, else from INDEX, and there only the very
# file whose hash is pinned; else PyPI's CUDA build, which works on a CPU once its CUDA libraries are there as well.
set -eu
python=$1 index=${2-} here=$(dirname "$0")

install() {
  "$python" -m pip install --quiet --disable-pip-version-check --no-deps "$@"
}

# The local version (+cpu) never matches the CUDA build. A wheel that is not found is no error yet: the last resort
# speaks for itself.
cpu_wheel=$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' "$here/torch-cpu.txt")
if install "$cpu_wheel" 2>/dev/null; then exit; fi
if [ -n "$index" ] && install --timeout 10 --retries 1 --index-url "$index" -r "$here/torch-cpu.txt" 2>/dev/null; then exit; fi
echo "torch: found no CPU wheel; taking PyPI's CUDA build (2.4 GB to download, 4 GB on disk, some minutes)" >&2
install -r "$here/torch-cuda.txt"
