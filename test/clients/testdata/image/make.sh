# Runs on a host, in this directory: makes the image shop, a busybox with MariaDB in it, out of the host's packages.
set -eu
programs='/usr/sbin/mariadbd /usr/bin/mariadb /usr/bin/mariadb-install-db /usr/bin/my_print_defaults /usr/bin/resolveip'
libraries=$(ldd $programs 2>/dev/null | grep -o '/[^ ]*\.so[^ ]*' | sort -u)
rm -rf root
for file in $programs $libraries /usr/share/mysql; do
    mkdir -p "root$(dirname "$file")"
    cp -rL "$file" "root$(dirname "$file")"
done
docker build -q -t shop . >/dev/null
rm -r root
