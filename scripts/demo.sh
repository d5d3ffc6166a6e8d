#!/bin/sh
# Mount an image, look at it with ordinary tools, say what each layer did, unmount.
#
#   scripts/demo.sh [IMAGE]
#
# Everything lives in a temporary directory, which is gone at the end, whatever happens.
set -eu
project=$(cd "$(dirname "$0")/.." && pwd)
unionmount=$project/.venv/bin/unionmount
sample=$project/sample/sample.tar
image=${1:-$sample}

work=$(mktemp -d)
mountpoint=$work/image
# What is a file, or says where it is, needs no store but a passing one; a name is in the user's.
case $image in
docker-archive:* | oci-archive:* | oci:*) found=given ;;
*) found=$([ -e "$image" ] && echo given || echo store) ;;
esac
[ "$found" = store ] || export UNIONMOUNT_ROOT="$work/root"

cleanup() {
    status=$?
    trap - EXIT INT TERM
    if grep -q " $mountpoint " /proc/self/mounts; then
        "$unionmount" umount "$mountpoint" || "$unionmount" umount --lazy "$mountpoint" || :
    fi
    rm -rf --one-file-system "$work"
    exit $status
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Show a command as the user would type it, then run it.
show() {
    printf '\n$ %s\n' "$(printf '%s' "$*" | sed "s|$unionmount|unionmount|g; s|$work/||g;
        s|$project/||g")"
    "$@"
}

mkdir "$mountpoint"
show "$unionmount" mount "$image" "$mountpoint"
if [ "$image" != "$sample" ]; then
    show ls -l "$mountpoint"
    show "$unionmount" layers "$image"
else
    show ls -lR "$mountpoint"
    show cat "$mountpoint/etc/motd"
    show "$mountpoint/bin/hello"
    if command -v getfattr >/dev/null; then
        for name in bin/hello etc/motd etc/greeter/en.conf app/greet.sh; do
            show getfattr --only-values -n user.unionmount.layer_index "$mountpoint/$name"
            echo
        done
    fi
    show "$unionmount" layers "$image"
    for layer in 0 1 2 3; do
        show "$unionmount" layers "$image" $layer
    done
fi
show "$unionmount" ps
show "$unionmount" umount "$mountpoint"
