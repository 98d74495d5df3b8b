#!/usr/bin/env bash
# Tries the image's root without a container engine, as root of the machine: try-root.sh BINARY. The program runs in it as nobody, with the root
# read-only but for /tmp, and answers a question.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(mktemp -d)
trap 'kill $! 2>/dev/null || true; rm -rf "$root"' EXIT
"$here/root.sh" "$1" "$root"
unshare --mount --propagation private bash -c '
    mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && mount -t tmpfs tmpfs "$0/tmp" && mount -t proc proc "$0/proc" 2>/dev/null || true
    exec chroot --userspec=65534:65534 "$0" /outro serve --host 127.0.0.1 --port 8899' "$root" &
for _ in $(seq 100); do
    curl -sf http://127.0.0.1:8899/health > /dev/null && break
    sleep 0.1
done
curl -sf http://127.0.0.1:8899/v1/completions -H 'content-type: application/json' -d '{"prompt": "Is it red?", "max_tokens": 4}'
echo
