#!/bin/sh
# Brings what the demo and the tests need on this machine: Docker Engine, debootstrap, ssh, nc… Installs only what
# is missing, and says so first; then starts dockerd where none answers. Does nothing, quickly, when all is there.
# Names of further commands, which are those of their packages too, may be given.
# What it did is noted in $MOBYFS_DEV_STATE (/var/lib/mobyfs-dev), for tools/unprepare.sh.
set -eu
state=${MOBYFS_DEV_STATE:-/var/lib/mobyfs-dev}
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

say() { echo "prepare: $*" >&2; }
die() { say "$1"; [ $# -lt 2 ] || say "  hint: $2"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
answers() { docker info >/dev/null 2>&1 || as_root docker info >/dev/null 2>&1; }

# as_root COMMAND…: runs it as root, through sudo where that is needed.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        die "this needs root, and sudo is missing: $*" "run tools/prepare.sh as root"
    fi
}

# missing prints the packages for the commands that are not there.
missing() {
    have dockerd || echo docker.io
    have iptables || echo iptables
    have ip || echo iproute2
    have debootstrap || echo debootstrap
    have ssh || echo openssh-client
    have mkfs.ext4 || echo e2fsprogs
    have mkfs.xfs || echo xfsprogs
    have mkfs.btrfs || echo btrfs-progs
    have nc || echo netcat-openbsd
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || echo debian-archive-keyring
    [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
    for command in "$@"; do have "$command" || echo "$command"; done
}

# packages prints the names of all installed packages, sorted.
packages() { dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' | sed -n 's/^ii *//p' | sort -u; }

install_packages() {
    have apt-get || die "these are missing, and there is no apt-get to install them: $*" "install what belongs to them"
    say "installing with apt-get: $*"
    as_root mkdir -p "$state"
    before=$(mktemp)
    packages >"$before"
    if ! apt_get update || ! apt_get install --no-install-recommends "$@"; then
        note_packages "$before"
        as_root tail -n 15 "$state/apt.log" >&2
        die "apt-get failed; all it said is in $state/apt.log"
    fi
    note_packages "$before"
    as_root rm -f "$state/apt.log"
}

# apt_get ARGS…: runs it without questions. RUNLEVEL keeps packages from starting services where no systemd runs.
apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 APT_LOG="$state/apt.log" sh -c \
        'apt-get -y -qq -o Dpkg::Use-Pty=0 "$@" >>"$APT_LOG" 2>&1' apt_get "$@"
}

# note_packages FILE: notes what came since FILE was written, dependencies too.
note_packages() {
    after=$(mktemp)
    packages >"$after"
    comm -13 "$1" "$after" | as_root tee -a "$state/packages" >/dev/null
    rm -f "$1" "$after"
}

# start_by_hand starts dockerd where no systemd does. No dockerd answers, so pid files of processes that have ended (and
# have no command line, even if nobody has reaped them) are old; but they would keep the new ones from starting.
start_by_hand() {
    as_root mkdir -p "$state"
    say "starting dockerd; its log is $state/dockerd.log"
    # shellcheck disable=SC2016 # expanded by the inner shell
    as_root sh -c '
        for file in "$1/dockerd.pid" /var/run/docker/containerd/containerd.pid; do
            if [ -e "$file" ] && [ -z "$(tr -d "\0" 2>/dev/null <"/proc/$(cat "$file")/cmdline")" ]; then rm -f "$file"; fi
        done
        exec setsid nohup dockerd --pidfile "$1/dockerd.pid" </dev/null >>"$1/dockerd.log" 2>&1 &
    ' start "$state"
}

wait_for_docker() {
    tries=0
    until answers; do
        tries=$((tries + 1))
        if [ "$tries" -ge 120 ]; then
            [ ! -e "$state/dockerd.log" ] || as_root tail -n 5 "$state/dockerd.log" >&2
            die "dockerd does not answer after a minute" "see its log: $state/dockerd.log, or journalctl -u docker"
        fi
        sleep 0.5
    done
}

wanted=$(missing "$@")
# shellcheck disable=SC2086 # one package a word
[ -z "$wanted" ] || install_packages $wanted
if ! have docker && apt-cache show docker-cli >/dev/null 2>&1; then # a package of its own since Debian 13
    install_packages docker-cli
fi
have docker || die "the command docker is missing" "install Docker's command line"

if ! answers; then
    if [ -d /run/systemd/system ]; then
        say "starting docker.service"
        as_root systemctl start docker
    else
        start_by_hand
    fi
    wait_for_docker
fi
if ! docker info >/dev/null 2>&1; then
    say "Docker answers root, but not $(id -un): run as root, or sudo usermod -aG docker $(id -un) and log in again"
fi
