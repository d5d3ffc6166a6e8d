#!/bin/sh
# Mount an image, look at it with ordinary tools, change it, say what was changed and what each layer
# did, unmount.
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

cleanup() {
    status=$?
    trap - EXIT HUP INT PIPE TERM
    if grep -q " $work/image " /proc/self/mounts; then
        "$unionmount" umount "$work/image" || "$unionmount" umount --lazy "$work/image" || :
    fi
    cd /
    rm -rf --one-file-system "$work"
    exit $status
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 141' PIPE
trap 'exit 143' TERM

absolute() {
    case $1 in
    /*) printf %s "$1" ;;
    *) printf %s "$PWD/$1" ;;
    esac
}

# Show a command as one would type it, then run it.
show() {
    printf '\n$ %s\n' "$(printf %s "$*" | sed "s|$unionmount|unionmount|g; s|$project/||g")"
    "$@"
}

export UNIONMOUNT_RUNTIME_DIR="$work/run"

# What is in a file needs no store but a passing one; a name is looked up in the user's own.
case $image in
docker-archive:* | oci-archive:* | oci:*)
    image=${image%%:*}:$(absolute "${image#*:}")
    export UNIONMOUNT_ROOT="$work/store"
    ;;
*)
    if [ -e "$image" ]; then
        image=$(absolute "$image")
        export UNIONMOUNT_ROOT="$work/store"
    fi
    ;;
esac

cd "$work"
mkdir image
show "$unionmount" mount --ephemeral "$image" image
if [ "$image" = "$sample" ]; then
    show ls -lR image
    show cat image/etc/motd
    show image/bin/hello
else
    show ls -l image
fi
if [ "$image" = "$sample" ] && command -v getfattr >/dev/null; then
    for name in bin/hello etc/motd etc/greeter/en.conf app/greet.sh; do
        show getfattr --only-values -n user.unionmount.layer_index image/$name
        echo
    done
fi
printf '\n$ echo "Hello from you." > image/hello\n'
echo "Hello from you." >image/hello
show cat image/hello
show "$unionmount" diff image
show "$unionmount" layers "$image"
if [ "$image" = "$sample" ]; then
    for layer in 0 1 2 3; do
        show "$unionmount" layers "$image" $layer
    done
fi
show "$unionmount" ps
show "$unionmount" umount image
