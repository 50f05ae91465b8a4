#!/usr/bin/env bash
# Builds the static binary and packs it into an image, without a container engine. The result is an
# archive that `podman load`, `docker load`, `ctr images import`, `kind load image-archive` and
# `skopeo copy docker-archive:FILE` read. One binary at one commit makes one archive, bit by bit.
#
#   deploy/image.sh [--tag NAME:TAG] [--output FILE] [--binary FILE] [--binary-only FILE]
#
#   --tag NAME:TAG      default portolan:<version>
#   --output FILE       default <target>/portolan-<version>-<architecture>.tar
#   --binary FILE       packs this static binary instead of building one
#   --binary-only FILE  builds only, and leaves the binary there
#
# Needs Rust, a C compiler, glibc 2.34 or newer with its static library (libc6-dev), GNU tar.
# <target> is ${CARGO_TARGET_DIR:-target}/static.
set -eu -o pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
fail() { echo "deploy/image.sh: $*" >&2; exit 2; }

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$root/Cargo.toml" | head -1)
description=$(sed -n 's/^description = "\(.*\)"$/\1/p' "$root/Cargo.toml" | head -1)
revision=$(git -C "$root" rev-parse HEAD 2>/dev/null || echo unknown)
target=${CARGO_TARGET_DIR:-$root/target}/static
tag=portolan:$version
output='' binary='' only=''
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || fail "$1 wants a value"
    case $1 in
    --tag) tag=$2 ;;
    --output) output=$2 ;;
    --binary) binary=$2 ;;
    --binary-only) only=$2 ;;
    *) fail "does not know $1; see the head of the file" ;;
    esac
    shift 2
done
[[ $tag =~ ^[a-z0-9][a-z0-9._:/-]*:[A-Za-z0-9_][A-Za-z0-9_.-]*$ ]] || fail "'$tag' is not NAME:TAG"

build() {
    local triple libc
    triple=$(rustc -vV | sed -n 's/^host: //p')
    [[ $triple == *-linux-gnu ]] || fail "builds on Linux with glibc, not on $triple; pass --binary"
    # From 2.34 on a static program resolves names by itself; before, it loads NSS libraries, which
    # an empty image lacks.
    libc=$(getconf GNU_LIBC_VERSION | cut -d' ' -f2)
    [ "$(printf '%s\n' 2.34 "$libc" | sort -V | head -1)" = 2.34 ] ||
        fail "glibc $libc is too old for a static program that resolves names; build with 2.34 or newer"
    # --target is given although it is the host: so the flags go to the program alone, not to build
    # scripts and macros, which cannot be static. getrandom is told to ask the kernel: in a static
    # program it would otherwise look for /dev/urandom, which may be absent.
    (cd "$root" && PORTOLAN_GIT_ID=${PORTOLAN_GIT_ID:-${revision:0:12}} CARGO_TARGET_DIR=$target \
        RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static --cfg getrandom_backend=\"linux_getrandom\"" \
        cargo build --locked --release --bin portolan --target "$triple") || fail "the build failed"
    binary=$target/$triple/release/portolan
}

# The architecture as images name it, from the file's own header: e_machine of ELF.
architecture() {
    case $(od -An -tx1 -N20 "$1" | tr -d ' \n') in
    7f454c46????????????????????????????3e00) echo amd64 ;;
    7f454c46????????????????????????????b700) echo arm64 ;;
    *) fail "$1 is no program for x86_64 or aarch64 Linux" ;;
    esac
}

# A program that names an interpreter is not static; the name stands in the first pages.
static() { ! head -c 8192 "$1" | grep -qaE '/lib(64)?/ld-(linux|musl)'; }

[ -n "$binary" ] || build
[ -f "$binary" ] || fail "no binary at $binary"
static "$binary" || fail "$binary is linked dynamically, and the image has no libraries"
if [ -n "$only" ]; then
    mkdir -p "$(dirname "$only")" && install -m 755 "$binary" "$only"
    exit
fi
arch=$(architecture "$binary")
output=${output:-$target/portolan-$version-$arch.tar}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
sum() { sha256sum "$1" | cut -d' ' -f1; }
# The same input gives the same bytes: no times, no names, a fixed order.
pack() { tar --format=ustar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$1" -cf "$2" "${@:3}"; }

mkdir "$work/root" "$work/image"
install -m 755 "$binary" "$work/root/portolan"
install -m 644 "$root/LICENSE" "$work/root/LICENSE"
pack "$work/root" "$work/layer.tar" LICENSE portolan
layer=$(sum "$work/layer.tar")
mkdir "$work/image/$layer"
mv "$work/layer.tar" "$work/image/$layer/layer.tar"
cat >"$work/config.json" <<END
{"architecture":"$arch","os":"linux","created":"1970-01-01T00:00:00Z",
"config":{"User":"65532:65532","Entrypoint":["/portolan"],"WorkingDir":"/",
"ExposedPorts":{"8443/tcp":{},"5353/udp":{},"5353/tcp":{},"9901/tcp":{}},
"Labels":{"org.opencontainers.image.title":"portolan",
"org.opencontainers.image.description":"$description",
"org.opencontainers.image.version":"$version",
"org.opencontainers.image.revision":"$revision",
"org.opencontainers.image.licenses":"Apache-2.0"}},
"rootfs":{"type":"layers","diff_ids":["sha256:$layer"]},
"history":[{"created":"1970-01-01T00:00:00Z","created_by":"deploy/image.sh"}]}
END
config=$(sum "$work/config.json")
mv "$work/config.json" "$work/image/$config.json"
printf '[{"Config":"%s.json","RepoTags":["%s"],"Layers":["%s/layer.tar"]}]\n' \
    "$config" "$tag" "$layer" >"$work/image/manifest.json"
mkdir -p "$(dirname "$output")"
pack "$work/image" "$output" "$config.json" "$layer" manifest.json
echo "$tag ($arch, image id sha256:$config): $output, $(($(wc -c <"$output") / 1024)) KiB"
