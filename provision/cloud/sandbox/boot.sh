# The first thing a host runs, as process 1. It ends by becoming systemd ("$@").
set -u
# Without --privileged Docker shows control groups read-only. They are this container's own (cgroupns=private).
for dir in /sys/fs/cgroup /sys/fs/cgroup/*; do
    if mountpoint -q "$dir"; then mount -o remount,bind,rw "$dir"; fi
done
# An identity of its own for each host; an empty machine-id would make systemd think it is the first boot ever.
if [ ! -s /etc/machine-id ]; then
    tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
fi
if command -v ssh-keygen >/dev/null; then ssh-keygen -A >/dev/null; fi
exec "$@"
