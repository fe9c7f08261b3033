# Tells what is on this host, as lines of key=value. It only reads. Arguments: the TCP ports that must be free.
# MOBYFS_HOST_ROOT stands in front of paths, and MOBYFS_HOST_PATH is the PATH, for tests.
R=${MOBYFS_HOST_ROOT:-}
PATH=${MOBYFS_HOST_PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}
LC_ALL=C
export PATH LC_ALL
say() { printf '%s=%s\n' "$1" "$2"; }
# text KEY FILE: each line of a file becomes a line of its own.
text() { if [ -r "$R$2" ]; then sed "s|^|$1=|" "$R$2"; echo; fi; }
has() { command -v "$1" >/dev/null 2>&1; }
# nearest PATH: the first of its parents that exists.
nearest() {
	p=$R$1
	while [ ! -e "$p" ] && [ -n "$p" ]; do p=${p%/*}; done
	printf '%s' "${p:-/}"
}

say os "$(uname -s)"
say arch "$(uname -m)"
say kernel "$(uname -r)"
say hostname "$(uname -n)"
say clock "$(date +%s)"
text machine_id /etc/machine-id
text boot_id /proc/sys/kernel/random/boot_id
if [ -r "$R/etc/os-release" ]; then sed -n 's/^PRETTY_NAME="\{0,1\}\([^"]*\).*/distribution=\1/p' "$R/etc/os-release"; fi

if [ -d "$R/run/systemd/system" ] && has systemctl; then
	say systemd yes
	systemctl show -p Id -p LoadState -p ActiveState -p UnitFileState -p NeedDaemonReload -p MainPID \
		mobyfs.socket mobyfs-kept.socket mobyfs.service mobyfs-control.service mobyfs-stub.service 2>/dev/null | sed 's/^/unit:/'
fi

# Docker is asked only where it runs already: asking through its socket could start it.
if has dockerd || has docker; then say docker yes; fi
pid=$(cat "$R/run/docker.pid" 2>/dev/null)
if { [ -n "$pid" ] && [ -d "/proc/$pid" ]; } || systemctl is-active --quiet docker.service 2>/dev/null; then
	if version=$(docker version --format '{{.Server.Version}}' 2>/dev/null) ||
		version=$(dockerd --version 2>/dev/null | sed 's/^Docker version \([^, ]*\).*/\1/'); then
		say docker_version "$version"
	fi
	if [ -n "$pid" ] && [ -d "/proc/$pid" ]; then say docker_pid "$pid"; fi
	# Which drivers it has activated in its life. One that can't be asked may have activated ours.
	if [ -e "$R/var/lib/mobyfs/installed.json" ]; then
		drivers=$(docker info --format '{{range .Plugins.Volume}}{{.}} {{end}}' 2>/dev/null) || drivers=mobyfs
		case " $drivers " in *" mobyfs "*) say driver_activated yes ;; esac
	fi
fi

space=$(for want in /usr/bin /usr/lib/mobyfs/dist /var/lib/mobyfs /var/lib/mobyfs-control /etc/mobyfs /etc/systemd/system; do
	df -Pk "$(nearest "$want")" 2>/dev/null | awk -v want="$want" 'NR == 2 { print "space:" want "=" $4 " " $6 }'
done)
printf '%s\n' "$space"
# Of all mounts only those that these are on; the last one at a place is the one in effect.
printf '%s\n' "$space" | awk 'NR == FNR { want[$2] = 1; next } $2 in want { options[$2] = $4 }
	END { for (m in options) print "mount:" m "=" options[m] }' - /proc/self/mounts

if has ss; then
	for port in "$@"; do ss -Hltnp "sport = :$port" 2>/dev/null | sed "s/^/listen:$port=/"; done
else
	for port in "$@"; do
		awk -v port="$port" -v hex=":$(printf '%04X' "$port")" \
			'$4 == "0A" && substr($2, length($2) - 4) == hex { print "listen:" port "=" }' /proc/net/tcp /proc/net/tcp6 2>/dev/null
	done
fi

# What bootstrap installed here, by content.
set -- "$R"/usr/lib/mobyfs/dist/*/* "$R"/etc/mobyfs/*.env "$R"/etc/mobyfs/classes.json "$R"/etc/systemd/system/mobyfs*.service "$R"/etc/systemd/system/mobyfs.socket \
	"$R"/etc/docker/plugins/mobyfs.spec "$R"/etc/docker/plugins/mobyfs.json
here=
for f in "$@"; do if [ -f "$f" ]; then here=yes; fi; done
if [ -n "$here" ]; then
	sha256sum "$@" 2>/dev/null | sed "s|^|sha:|; s|  $R/|  /|"
	stat -c 'mode:%a %n' "$@" 2>/dev/null | sed "s| $R/| /|"
fi
for name in mobyfs mobyfs-control; do
	if [ -L "$R/usr/bin/$name" ]; then
		say "link:/usr/bin/$name" "$(readlink "$R/usr/bin/$name")"
	elif [ -e "$R/usr/bin/$name" ]; then
		say "link:/usr/bin/$name" ""
	fi
done
for d in /usr/lib/mobyfs /etc/mobyfs /var/lib/mobyfs /var/lib/mobyfs-control /etc/docker /etc/docker/plugins \
	/run/docker/plugins/mobyfs.sock /run/mobyfs/driver.sock /run/mobyfs/kept /run/systemd/system/mobyfs-kept.socket; do
	if [ -e "$R$d" ]; then say exists "$d"; fi
done
for unit in mobyfs.socket mobyfs.service mobyfs-control.service; do
	for link in "$R"/etc/systemd/system/*.wants/"$unit"; do
		if [ -L "$link" ]; then say wants "$unit ${link#"$R"}"; fi
	done
done
text installed /var/lib/mobyfs/installed.json
text env /etc/mobyfs/mobyfs.env
text node_crt /var/lib/mobyfs/pki/node.crt
text node_ca /var/lib/mobyfs/pki/ca.crt
text docker_crt /var/lib/mobyfs/pki/docker.crt
text kept /run/mobyfs/kept
text control_crt /var/lib/mobyfs-control/pki/control.crt
text control_ca /var/lib/mobyfs-control/pki/ca.crt
if [ -s "$R/var/lib/mobyfs/pki/node.key" ]; then say node_key yes; fi
if [ -s "$R/var/lib/mobyfs/pki/docker.key" ]; then say docker_key yes; fi
if [ -s "$R/var/lib/mobyfs-control/pki/control.key" ]; then say control_key yes; fi
if [ -s "$R/var/lib/mobyfs-control/pki/peer.key" ] && [ -s "$R/var/lib/mobyfs-control/pki/peer.crt" ]; then say control_peer yes; fi
if [ -s "$R/var/lib/mobyfs-control/pki/ca.key" ]; then say authority_key yes; fi
if [ -d "$R/var/lib/mobyfs-control/etcd/data/member" ]; then say store yes; fi
if [ -e "$R/var/lib/mobyfs-control/etcd/client.sock" ] && control=$(readlink "$R/usr/bin/mobyfs-control"); then
	timeout 10 "$R$control" member ls --root "$R/var/lib/mobyfs-control" 2>/dev/null | sed 's/^/member=/'
fi

# Volumes whose bytes are here, and bind mounts of them into containers.
volumes=0
for d in "$R"/var/lib/mobyfs/volumes/*; do if [ -d "$d" ]; then volumes=$((volumes + 1)); fi; done
say volumes "$volumes"
if [ "$volumes" -gt 0 ]; then
	in_use=0
	for id in $(cat /proc/[0-9]*/mountinfo 2>/dev/null | awk '{ print $4 }' |
		sed -n 's|.*/volumes/\([0-9a-z]\{26\}\)/data$|\1|p' | sort -u); do
		if [ -d "$R/var/lib/mobyfs/volumes/$id" ]; then in_use=$((in_use + 1)); fi
	done
	say in_use "$in_use"
fi
say end mobyfs-facts
