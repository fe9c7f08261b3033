#!/bin/sh
# Makes the image "postgres" in a Debian host's Docker, out of the PostgreSQL that Debian packages: the host's own programs and
# libraries without Docker's. The server's programs stay on the host too; they are what the test checks the database with.
set -eu
export DEBIAN_FRONTEND=noninteractive
mkdir -p /etc/postgresql-common
echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
apt-get update -qq
apt-get install -qq --no-install-recommends postgresql >/dev/null
bin=$(echo /usr/lib/postgresql/*/bin)
ln -sfn "$bin" /usr/local/lib/postgresql

# The data checksums (-k) are what pg_checksums looks at in the end.
cat >/usr/local/bin/serve-data <<'SERVE'
#!/bin/sh
set -eu
as="setpriv --reuid=postgres --regid=postgres --init-groups"
if [ ! -s /data/db/PG_VERSION ]; then
    install -d -o postgres -g postgres -m 0700 /data/db
    $as /usr/local/lib/postgresql/initdb -k -A trust -D /data/db >/dev/null
    echo 'host all all all trust' >>/data/db/pg_hba.conf
fi
exec $as /usr/local/lib/postgresql/postgres -D /data/db -c listen_addresses='*' -c unix_socket_directories=/tmp -c max_wal_size=256MB
SERVE
chmod +x /usr/local/bin/serve-data
mkdir -p /tmp/rootfs/tmp /tmp/rootfs/data /tmp/rootfs/run
chmod 1777 /tmp/rootfs/tmp
tar -C / -cf - --exclude='usr/bin/docker*' --exclude='usr/sbin/dockerd' --exclude='usr/*bin/containerd*' --exclude='usr/*bin/runc' \
    --exclude=usr/share/doc --exclude=usr/share/man --exclude=usr/lib/modules --exclude=usr/local/bin/mobyfs* \
    bin lib lib64 sbin usr etc/passwd etc/group etc/nsswitch.conf etc/alternatives etc/ld.so.cache etc/localtime \
    -C /tmp/rootfs tmp data run |
    docker import -c 'CMD ["/usr/local/bin/serve-data"]' -c 'ENV LC_ALL=C.UTF-8' - postgres:latest >/dev/null
rm -rf /tmp/rootfs
