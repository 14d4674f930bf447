#!/bin/sh
# Installs the Debian packages that tests use, where that needs no password; else names what is missing and goes on:
# the tests that need it are skipped and say so.
set -u

packages=""
for command in nginx haproxy curl redis-server redis-cli promtool prometheus-alertmanager systemd-analyze; do
    case $command in # the others are named as their packages are
    redis-cli) package=redis-tools ;;
    promtool) package=prometheus ;;
    systemd-analyze) package=systemd ;; # for its linter; nothing of it is started
    *) package=$command ;;
    esac
    command -v "$command" >/dev/null 2>&1 || [ -x "/usr/sbin/$command" ] || packages="$packages $package"
done
[ -n "$packages" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    as_root=""
elif sudo -n true 2>/dev/null; then
    as_root="sudo"
else
    echo "missing for some tests:$packages (as root: apt-get install$packages)" >&2
    exit 0
fi
command -v apt-get >/dev/null 2>&1 || {
    echo "missing for some tests:$packages (no apt-get here: install them your way)" >&2
    exit 0
}
# shellcheck disable=SC2086 # a list of words
{ $as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq &&
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages; } >/dev/null ||
    echo "missing for some tests, apt-get could not install:$packages" >&2
exit 0
