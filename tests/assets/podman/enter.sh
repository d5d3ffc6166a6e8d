# Prepare mount and PID namespaces of a script's own, and run it there, as root or as an ordinary user.
#
# What podman leaves is below TOP, on a tmpfs of these namespaces, or one of their processes.
set -eu

# What other tests have mounted would stay mounted here after they have unmounted it. A mount is gone from here as well
# when its mount point is removed, which may happen at any moment.
tac /proc/self/mountinfo | cut -d ' ' -f 5 | while read -r place; do
    case $place in
    "$PUBLIC"/*) umount -l "$(printf '%b' "$place")" 2>/dev/null || true ;;
    esac
done
# crun refuses version 1 of cgroups where version 2 is mounted beside it.
if mountpoint -q /sys/fs/cgroup/unified; then
    umount /sys/fs/cgroup/unified
fi

# podman refuses to clean up a container if the path of its run directory has more than 50 characters, and then waits
# for the end of each container 20 seconds longer. So the directory gets a short path.
cd "$TOP"
for place in /run /dev/shm; do
    mount -t tmpfs -o mode=1777 tmpfs "$place"
done
mkdir /run/p
mount --bind "$TOP" /run/p
cd /run/p
# The program is found at its own path, even below a directory that only root may enter.
. ./covers.sh

for name in passwd group; do
    cp "/etc/$name" "etc/$name"
done
echo "rootless:x:$USER_ID:$USER_ID::$PWD/home:/bin/sh" >>etc/passwd
echo "rootless:x:$USER_ID:" >>etc/group
for name in subuid subgid; do
    printf '%s\n' "rootless:$SUBORDINATE" "containers:$CONTAINERS" >"etc/$name"
done
for name in passwd group subuid subgid; do
    mount --bind "etc/$name" "/etc/$name"
done
cp -a /dev/fuse fuse
chmod 666 fuse
mount --bind fuse /dev/fuse
# podman starts containers with a user namespace in a mount namespace of their own. Unmounting there reaches this one
# only if mounts are shared, as they are on systems with systemd.
mount --make-rshared /

export HOME="$PWD/home" TMPDIR="$PWD/tmp"
if [ "$AS_ROOT" = 1 ]; then
    exec bash script.sh
fi
export XDG_RUNTIME_DIR="$PWD/run"
chown -R "$USER_ID:$USER_ID" home run tmp context
exec setpriv --reuid="$USER_ID" --regid="$USER_ID" --clear-groups bash script.sh
