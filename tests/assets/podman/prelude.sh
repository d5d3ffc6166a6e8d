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
# List a tar from standard input, without times and sizes.
entries() { tar --numeric-owner -tvf - | grep -v -e ' bin/' -e ' run/' | awk '{print $1, $2, $6, $7, $8}' | sort -k3; }
# Save an image, and list its layers.
layers() {
    rm -rf "$TMPDIR/saved" && mkdir "$TMPDIR/saved"
    podman save -q "$1" | tar -xf - -C "$TMPDIR/saved"
    for layer in $(tr , '\n' <"$TMPDIR/saved/manifest.json" | grep -o '[0-9a-f]*\.tar'); do
        echo "- a layer"
        entries <"$TMPDIR/saved/$layer"
    done
}
net="--network host $CGROUPS"
