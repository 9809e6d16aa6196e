#!/usr/bin/env bash
# Somebody depends on the published crate with the feature `cuda`, on a machine without nvcc: it is packaged, unpacked
# elsewhere, built there, and its kernels run on the emulated driver. Then what must not build does not, and says why.
#
#   usage: tests/journeys/packaged.sh        needs what .ci/package needs; about a minute when the kernels are compiled already
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD

.ci/package
cargo build -p fake_cuda

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
tar -xzf target/package/imma-*.crate -C "$place"
mv "$place"/imma-* "$place/imma"
mkdir -p "$place/app/src" "$place/driver"
cp tests/journeys/gpu_user.rs "$place/app/src/main.rs"
cp "$place/imma/Cargo.lock" "$place/app/"
cat >"$place/app/Cargo.toml" <<'TOML'
[package]
name = "gpu_user"
version = "0.0.0"
edition = "2021"

[workspace]

[dependencies]
imma = { path = "../imma", features = ["cuda"] }
ndarray = "0.17"
TOML
for name in libcuda.so libcuda.so.1 libcublasLt.so libcublasLt.so.13 libcublasLt.so.12; do
    ln -s "$root/target/debug/libfake_cuda.so" "$place/driver/$name"
done

# A machine without nvcc, and without a trace of images compiled earlier.
unset CUDA_HOME CUDA_PATH "${!IMMA_@}"
without=""
IFS=: read -ra folders <<<"$PATH"
for folder in "${folders[@]}"; do
    [ -x "$folder/nvcc" ] || without+="${without:+:}$folder"
done
export PATH=$without IMMA_IMAGE_CACHE="$place/images" CARGO_TARGET_DIR="$root/target/journeys"
cd "$place/app"

cargo build
for device in sm_80 sm_90; do
    LD_LIBRARY_PATH="$place/driver" IMMA_FAKE_DEVICE=$device "$CARGO_TARGET_DIR/debug/gpu_user"
done
[ ! -e "$IMMA_IMAGE_CACHE" ] || { echo "something was compiled" >&2; exit 1; }

# refused WHAT WORDS...: the build stops, and its message has all of these words.
refused() {
    local what=$1 said
    shift
    if said=$(cargo build 2>&1); then
        echo "$what: it was built" >&2
        exit 1
    fi
    for words in "$@"; do
        grep -qF -- "$words" <<<"$said" || { echo "$what: no '$words' in: $said" >&2; exit 1; }
    done
    echo "$what: refused: $(grep -m 1 'imma.*: ' <<<"$said" || true)"
}
imma="$place/imma/cuda"
echo "// changed" >>"$imma/element.cuh"
refused "a header that was changed" "the image of dequantize in cuda/images was not made from this cuda/dequantize.cu" "IMMA_NVCC"
sed -i '$d' "$imma/element.cuh"

touch "$imma/new.cu"
refused "a source without an image" "cuda/images has no image of cuda/new.cu"
rm "$imma/new.cu"

cp "$imma/images/peak.fatbin.zst" "$place/kept"
head -c 1000 "$place/kept" >"$imma/images/peak.fatbin.zst"
rm -rf "$CARGO_TARGET_DIR"/debug/build/imma-*/out/peak.fatbin
refused "half an image" "cuda/images/peak.fatbin.zst is damaged"
mv "$place/kept" "$imma/images/peak.fatbin.zst"

if [ ! -x /usr/local/cuda/bin/nvcc ]; then
    IMMA_CUDA_ARCHS=80 refused "architectures of one's own, without nvcc" "IMMA_CUDA_ARCHS asks to compile the kernels" "nvcc was not found" "Either unset it" "pip install"
    mv "$imma/images" "$place/images-of-the-package"
    refused "no images and no nvcc" "no compiled kernels" "nvcc was not found" "the crate as it is" "IMMA_NVCC" "pip install"
    mv "$place/images-of-the-package" "$imma/images"
else
    echo "not run: the messages without nvcc (this machine has one in /usr/local/cuda)"
fi

# And what was refused is built once it is whole again.
cargo build
echo "the packaged crate: built without nvcc, ran, refused what is not its own"
