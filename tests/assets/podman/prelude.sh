# Functions of the scripts, and what podman is called with.
exec 2>&1
cd "$HOME/../context"
podman() { command podman --log-level=error "$@"; }
buildah() { command buildah --log-level=error "$@"; }
# Run a command of podman, and print it, its output and its status.
say() {
    printf '$ podman %s\n' "$*"
    podman "$@"
    echo "= $?"
}
# List the files of an image, or of one of its directories, in a shell inside.
list() { echo "find $* -exec stat -c '%n %u:%g %a %h %F' {} + | sort"; }
net="--network host $CGROUPS"
