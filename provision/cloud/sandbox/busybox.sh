# Runs on a host: makes the image busybox:latest out of the host's static busybox, unless there is one.
set -eu
if docker image inspect busybox:latest >/dev/null 2>&1 || ! command -v busybox >/dev/null; then
    exit 0
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir -p "$dir/root/bin" "$dir/root/etc" "$dir/root/root" "$dir/root/tmp"
chmod 1777 "$dir/root/tmp"
echo 'root:x:0:0:root:/root:/bin/sh' >"$dir/root/etc/passwd"
echo 'root:x:0:' >"$dir/root/etc/group"
cp "$(command -v busybox)" "$dir/root/bin/busybox"
for name in $(busybox --list); do
    if [ "$name" != busybox ]; then ln -s busybox "$dir/root/bin/$name"; fi
done
tar -C "$dir/root" -cf "$dir/image.tar" .
docker import -c 'CMD ["sh"]' -c 'ENV PATH=/bin' "$dir/image.tar" busybox:latest >/dev/null
