# The same containers with podman and with unionmount: $ENGINE says which one runs.
exec 2>&1
cd "$HOME/../context"
export HERE=taken
if [ "$ENGINE" = podman ]; then
    # The set of containers-common; without it, podman 4.3 has three more of its own.
    names='"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP"'
    printf '[containers]\ndefault_capabilities = [%s, "SETUID", "SYS_CHROOT"]\n' "$names" >>"$CONTAINERS_CONF"
    engine=(podman --log-level=error)
    run=("${engine[@]}" run --network host --pull never $CGROUPS)
    alone() { engine run --network none --pull never $CGROUPS "$@"; }
    commit() { engine commit -q "$@"; }
    save() { engine save -q -o "$2" "$1"; }
else
    engine=("$UNIONMOUNT")
    run=("${engine[@]}" run --runtime "$RUNTIME" --pull never)
    alone() { run --network none "$@"; }
    commit() { engine commit "$@"; }
    save() { engine save -o "$2" "$1"; }
fi
engine() { "${engine[@]}" "$@"; }
run() { "${run[@]}" "$@"; }
# Run a step, and print its number, its output and its status.
number=0
step() {
    number=$((number + 1))
    echo "-- $number"
    "$@"
    echo "= $?"
}
# The same for a step that must fail; what is said about it is each engine's own.
fails() {
    number=$((number + 1))
    echo "-- $number"
    "$@" >/dev/null 2>&1
    echo "= $?"
}
# The same where engines have different statuses.
refused() { fails "$@" | sed 's/^= [1-9].*/= refused/'; number=$((number + 1)); }
# What podman's mounts leave in the layer of a container.
left='/?(dev|proc|run|sys|run/\.containerenv|etc/(hostname|hosts|resolv\.conf|mtab))/?'
changes() { engine diff "$1" | grep -v -x -E "[AC] $left" | sort; }
# List a layer: whiteouts by name, since their modes mean nothing, and without the root.
entries() {
    tar --numeric-owner -tvf - | awk '
        $6 == "./" { next }
        $6 ~ /[.]wh[.]/ { print "-", "-", $6; next }
        { print $1, $2, $6, $7, $8 }' | grep -v -E "^[^ ]+ [^ ]+ $left( |\$)" | sort -k3
}
# List the last layer of a saved image with its contents.
listed() {
    rm -rf saved && mkdir saved && tar -xf "$1" -C saved
    last=$(sed 's/.*"Layers": *\[//; s/\].*//' saved/manifest.json | tr -d '" \n' | tr , '\n' | tail -n 1)
    "$PYTHON" list_layer.py "$left" <"saved/$last"
}
