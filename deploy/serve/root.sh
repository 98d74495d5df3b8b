#!/usr/bin/env bash
# Lays down the root of the image of Containerfile: root.sh BINARY DIR. The binary must be static.
set -eu
binary=$1 root=$2
if ldd "$binary" 2>/dev/null | grep -q "=>"; then
    echo "$binary needs libraries; build it for x86_64-unknown-linux-musl" >&2
    exit 1
fi
mkdir -p "$root/etc/ssl/certs" "$root/models" "$root/tmp"
chmod 1777 "$root/tmp"
install -m 755 "$binary" "$root/outro"
echo "nobody:x:65534:65534:nobody:/:/outro" > "$root/etc/passwd"
# Certificates of the hub and of hosts from which media are fetched.
if [ -f /etc/ssl/certs/ca-certificates.crt ]; then
    install -m 644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
fi
