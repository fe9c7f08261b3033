#!/usr/bin/env bash
# Shows mobyfs on three hosts made of containers: `tools/demo.sh` (make demo), `tools/demo.sh down` (make demo-down).
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/bin:$PATH"
work=.demo
fleet=demo

say() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
show() { printf '\033[36m$ %s\033[0m\n' "$*"; "$@"; }
# on HOST COMMAND…: runs a command on a host, as its administrator would after ssh.
on() {
	local host=$1
	shift
	printf '\033[36m%s$' "$host"
	printf ' %s' "${@@Q}" | sed "s/'\([A-Za-z0-9_.:=/-]*\)'/\1/g"
	printf '\033[0m\n'
	bin/mobyctl sandbox ssh --name "$fleet" "$host" -- "$@"
}

down() {
	[ ! -f "$work/cluster.yaml" ] || bin/mobyctl reset -f "$work/cluster.yaml" --purge-data --yes || true
	bin/mobyctl sandbox down --name "$fleet" --images
	rm -rf "$work"
	tools/unprepare.sh
}

if [ "${1:-}" = down ]; then
	down
	exit
fi
mkdir -p "$work"

say "Three hosts, each with systemd, sshd and its own Docker"
show mobyctl sandbox up --name "$fleet" --hosts 3

say "A cluster on them, over SSH"
rm -f "$work/cluster.yaml"
show mobyctl init --sandbox "$fleet" -o "$work/cluster.yaml"
show mobyctl bootstrap -f "$work/cluster.yaml" --yes
show mobyctl node ls

say "A container on h1 writes into a volume"
on h1 docker run --rm -v pgdata:/data --volume-driver=mobyfs busybox sh -c 'echo "written on h1" > /data/note; sync; ls -l /data'

say "The same volume on h2, by merely starting the container there"
on h2 docker run --rm -v pgdata:/data --volume-driver=mobyfs busybox sh -c 'cat /data/note; echo "and on h2" >> /data/note'
show mobyctl volume ls

say "Moved ahead of time to h3"
show mobyctl volume move pgdata --to h3
on h3 docker run --rm -v pgdata:/data --volume-driver=mobyfs busybox cat /data/note

say "Every host's Docker lists the volumes of the cluster"
for h in h1 h2 h3; do on "$h" docker volume ls; done
show mobyctl status

cat <<'END'

What to try next
  bin/mobyctl sandbox ssh --name demo h2              # a shell on a host; docker is there
  docker run -d --name web -v pgdata:/data --volume-driver=mobyfs busybox sleep 1000     # there; then on another host:
  docker run --rm -v pgdata:/data --volume-driver=mobyfs busybox ls /data                # refused: it says who has it
  bin/mobyctl volume create cache --node h1 && bin/mobyctl volume inspect cache
  make demo-down                                      # takes it all off again
END
