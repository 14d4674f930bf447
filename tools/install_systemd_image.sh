#!/bin/sh
# Makes a container image with systemd as PID 1, for `make test-systemd`: Debian bookworm by debootstrap, so no
# container registry is needed; 250 MB, two minutes, once. Needs root, and on Debian installs podman and debootstrap.
# Usage: tools/install_systemd_image.sh FOLDER
set -eu
folder=$1
image=localhost/penstock-systemd:bookworm
stamp=$folder/.image-1
[ -e "$stamp" ] && exit 0

fail() {
    echo "error: $1" >&2
    echo "hint: $2" >&2
    exit 1
}
[ "$(id -u)" = 0 ] || fail "an image of a whole system is made by root" "run it as root"
packages=""
for command in podman runc debootstrap; do
    command -v "$command" >/dev/null 2>&1 || [ -x "/usr/sbin/$command" ] || packages="$packages $command"
done
if [ -n "$packages" ]; then
    command -v apt-get >/dev/null 2>&1 || fail "missing:$packages" "no apt-get here: install them your way"
    # podman's network needs netavark and iptables, which it only recommends
    # shellcheck disable=SC2086 # a list of words
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        $packages netavark iptables; } >/dev/null || fail "apt-get could not install:$packages" "see above"
fi

echo "Making the image $image in $folder; this takes some minutes, once." >&2
rm -rf "$folder/rootfs"
mkdir -p "$folder"
PATH="$PATH:/usr/sbin:/sbin" debootstrap --variant=minbase \
    --include=ca-certificates,curl,dbus,procps,python3,python3-venv,systemd,systemd-sysv \
    bookworm "$folder/rootfs" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >"$folder/debootstrap.log" 2>&1 ||
    fail "debootstrap failed; $folder/debootstrap.log says why" "DEBIAN_MIRROR names another mirror"
tar -C "$folder/rootfs" -c . |
    podman --root "$folder/storage" --runroot "$folder/run" import --change 'CMD ["/sbin/init"]' - "$image" >/dev/null
rm -rf "$folder/rootfs"
touch "$stamp"
