#!/bin/sh
# Makes a container image with systemd as PID 1 and what Penstock depends on, for `make test-systemd`: Debian bookworm
# by debootstrap, so no container registry is needed; 500 MB, three minutes, once. Needs root.
# Usage: tools/install_systemd_image.sh FOLDER
set -eu
folder=$1
image=localhost/penstock-systemd
requirements=$(cd "$(dirname "$0")/.." && pwd)/requirements/runtime.txt
stamp=$folder/.image-2-$(sha256sum <"$requirements" | cut -c 1-12)
[ -e "$stamp" ] && exit 0

fail() {
    echo "error: $1" >&2
    echo "hint: $2" >&2
    exit 1
}
in_podman() {
    podman --root "$folder/storage" --runroot "$folder/run" --runtime runc "$@"
}

[ "$(id -u)" = 0 ] || fail "an image of a whole system is made by root" "run it as root"
packages=""
for command in podman runc debootstrap; do
    command -v "$command" >/dev/null 2>&1 || [ -x "/usr/sbin/$command" ] || packages="$packages $command"
done
if [ -n "$packages" ]; then
    command -v apt-get >/dev/null 2>&1 || fail "missing:$packages" "no apt-get here: install them your way"
    # shellcheck disable=SC2086 # a list of words
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        $packages; } >/dev/null || fail "apt-get could not install:$packages" "the lines above say why"
fi

echo "Making the image $image in $folder; this takes some minutes, once." >&2
mkdir -p "$folder"
rm -rf "$folder/rootfs" "$folder"/.image-*
PATH="$PATH:/usr/sbin:/sbin" debootstrap --variant=minbase \
    --include=ca-certificates,curl,dbus,libgomp1,procps,python3,python3-venv,systemd,systemd-sysv \
    bookworm "$folder/rootfs" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >"$folder/debootstrap.log" 2>&1 ||
    fail "debootstrap failed; $folder/debootstrap.log says why" "DEBIAN_MIRROR names another mirror"
tar -C "$folder/rootfs" -c . | in_podman import - "$image:bare" >/dev/null
rm -rf "$folder/rootfs"

# What the host's pip goes by is there for this one command, and is not in the image.
for path in /etc/ssl/certs /etc/pip.conf /etc/xdg/pip "$HOME/.config/pip"; do
    [ ! -e "$path" ] || set -- "$@" -v "$path:$path:ro"
done
shift
# Limits of its own: a host may not allow those that podman asks for.
container=$(in_podman run -d --network host --ulimit nofile=4096:4096 --ulimit nproc=4096:4096 "$@" \
    -v "$requirements:/requirements.txt:ro" "$image:bare" sleep infinity)
trap 'in_podman rm -f -t 0 "$container" >/dev/null' EXIT
in_podman exec -e 'PIP_*' -e SSL_CERT_FILE -e HTTPS_PROXY -e HTTP_PROXY -e NO_PROXY "$container" \
    sh -c 'python3 -m venv /opt/penstock && /opt/penstock/bin/pip install -qq --require-hashes -r /requirements.txt' ||
    fail "installing the dependencies failed; the lines above say why" "pip needs a package index"
in_podman commit -q --change 'CMD ["/sbin/init"]' "$container" "$image:bookworm" >/dev/null
touch "$stamp"
