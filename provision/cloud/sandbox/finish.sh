# Runs in a new host's root file system, once, after debootstrap. What changes here changes the image's hash.
set -eu

# A user with sudo and one without, besides root. Keys are given when a host is made.
useradd --create-home --shell /bin/bash mobyfs
useradd --create-home --shell /bin/bash nosudo
echo 'mobyfs ALL=(ALL:ALL) NOPASSWD: ALL' >/etc/sudoers.d/mobyfs
chmod 0440 /etc/sudoers.d/mobyfs

# Each host makes its own of these (boot.sh).
rm -f /etc/ssh/ssh_host_* /var/lib/dbus/machine-id
: >/etc/machine-id
ln -s /etc/machine-id /var/lib/dbus/machine-id

# sshd complains at each login if it is missing.
[ -e /etc/default/locale ] || echo 'LANG=C.UTF-8' >/etc/default/locale

# Nobody reads manuals here.
find /usr/share/doc /usr/share/locale -mindepth 1 -delete
rm -rf /usr/share/man/* /usr/share/info/* /usr/share/lintian /var/lib/apt/lists/* /var/cache/apt/*.bin \
    /var/cache/apt/archives/*.deb /var/cache/debconf/*-old /var/log/*.log /var/log/apt/* /etc/hostname /etc/resolv.conf
