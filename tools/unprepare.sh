#!/bin/sh
# Takes back what tools/prepare.sh did: stops the dockerd that it started, and no other. Packages stay; with
# --packages exactly those go that it installed. Does nothing where there is nothing to take back.
set -eu
state=${MOBYFS_DEV_STATE:-/var/lib/mobyfs-dev}

say() { echo "unprepare: $*" >&2; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo "$@"
    else
        say "this needs root, and sudo is missing: $*"
        exit 1
    fi
}

remove_packages=no
case ${1:-} in
'') ;;
--packages) remove_packages=yes ;;
*)
    echo "usage: tools/unprepare.sh [--packages]" >&2
    exit 2
    ;;
esac
[ -d "$state" ] || exit 0

# running tells whether the noted process is there and is a dockerd: its number may be another's by now. One that has
# ended has no command line, even if nobody has reaped it.
running() {
    [ -n "$pid" ] && tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | sed -n 1p | grep -Eq '(^|/)dockerd$'
}

pid=$(as_root cat "$state/dockerd.pid" 2>/dev/null || true)
if running; then
    say "stopping dockerd ($pid)"
    as_root kill "$pid"
    tries=0
    while running; do
        tries=$((tries + 1))
        if [ "$tries" -ge 120 ]; then
            say "dockerd ($pid) has not ended after a minute; see $state/dockerd.log"
            exit 1
        fi
        sleep 0.5
    done
fi
as_root rm -f "$state/dockerd.pid" "$state/dockerd.log"

if [ "$remove_packages" = yes ] && [ -s "$state/packages" ]; then
    list=$(sort -u "$state/packages" | tr '\n' ' ')
    say "removing with apt-get: $list"
    # shellcheck disable=SC2086 # one package a word
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -y -qq -o Dpkg::Use-Pty=0 remove $list >/dev/null
    as_root rm -f "$state/packages"
fi
as_root rmdir "$state" 2>/dev/null || true # stays while packages are noted
