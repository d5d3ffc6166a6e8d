# The same containers with podman and with unionmount: $ENGINE says which one runs.
exec 2>&1
cd "$HOME/../context"
export HERE=taken
if [ "$ENGINE" = podman ]; then
    # The set of containers-common; without it, podman 4.3 has three more of its own.
    names='"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP"'
    printf '[containers]\ndefault_capabilities = [%s, "SETUID", "SYS_CHROOT"]\n' "$names" >>"$CONTAINERS_CONF"
    engine() { command podman --log-level=error "$@"; }
    run() { engine run --network host --pull never $CGROUPS "$@"; }
    alone() { engine run --network none --pull never $CGROUPS "$@"; }
    commit() { engine commit -q "$@"; }
    save() { engine save -q -o "$2" "$1"; }
else
    engine() { "$UNIONMOUNT" "$@"; }
    run() { engine run --runtime "$RUNTIME" --pull never "$@"; }
    alone() { run --network none "$@"; }
    commit() { engine commit "$@"; }
    save() { engine save -o "$2" "$1"; }
fi
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

for name in app service; do engine load -q -i $name.tar >/dev/null 2>&1 || engine load $name.tar >/dev/null; done
step run --rm app true
step run --rm app sh -c 'exit 7'
fails run --rm app nosuch
fails run --rm app /etc/passwd
fails run --rm app /etc
refused run --rm -u nosuch app true
fails run --rm --entrypoint nosuch app
step run --rm app sh -c 'sh -c "kill -9 \$\$" 2>/dev/null; echo $?'
echo input | step run --rm -i app cat
echo input | step run --rm app cat
step run --rm app sh -c 'echo out; echo err >&2' 2>/dev/null
step run --rm -e A=1 -e HERE -e NOT app sh -c 'echo "$A $HERE ${NOT-unset} $PATH $HOME $TERM"'
printf '# comment\nB=from file\n  C=2\nHERE\n' >variables
step run --rm --env-file variables -e C=3 app sh -c 'echo "$B $C $HERE"'
step run --rm -w /etc app pwd
step run --rm -u 1000 app sh -c 'id; echo $HOME'
step run --rm -u app app sh -c 'id; echo $HOME'
step run --rm -u 0:5 app sh -c 'id -u; id -G; echo $HOME'
step run --rm -u 77 app sh -c 'id -u; id -G; echo $HOME'
step run --rm --entrypoint /bin/echo app a b
step run --rm --entrypoint '["/bin/sh","-c"]' app 'echo $0 $#'
step run --rm service
step run --rm service 'echo own; pwd; id -u'
step run --rm --read-only app sh -c 'exec 2>&1; touch /x; echo $?; touch /dev/shm/x; echo $?; touch /tmp/x 2>/dev/null; echo'
step run --rm --tmpfs /scratch app sh -c 'touch /scratch/x; grep " /scratch " /proc/mounts | cut -d " " -f 2,3'
mkdir -p shared && echo shared >shared/file && chmod 777 shared
step run --rm -v "$PWD/shared:/mnt" app sh -c 'cat /mnt/file; echo new >/mnt/new; echo $?'
step cat shared/new
step run --rm -v "$PWD/shared:/mnt:ro" app sh -c 'exec 2>&1; cat /mnt/file; touch /mnt/x; echo $?'
step run --rm --mount "type=bind,source=$PWD/shared/file,target=/etc/one,readonly" app cat /etc/one
step alone --rm app ls /sys/class/net
step alone --rm --hostname box app sh -c 'hostname; grep -c box /etc/hostname; grep -c box /etc/hosts'
step run --rm app grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status
step run --rm -u 1000 app grep -E '^Cap' /proc/self/status
step run --rm --cap-add NET_RAW --cap-drop chown app grep -E '^Cap' /proc/self/status
step run --rm --cap-drop all app grep -E '^Cap' /proc/self/status
step run --rm --privileged app grep -E '^(Cap|Seccomp:)' /proc/self/status
step run --rm --privileged app sh -c 'ls -l /dev | sed "/loop[0-9]/d; s/ [A-Z].* / /"; head -c 2 /dev/zero | od'
step run --rm app sh -c 'exec 2>&1; wc -c </proc/kcore; ls /proc/acpi /sys/firmware; umask; echo x >/proc/sys/kernel/domainname; echo $?'
step run --rm app sh -c 'exec 2>&1; mount -t tmpfs none /mnt; echo $?; chown 1:2 /etc/group; echo $?'
step run --name made app sh -c 'mkdir /d /d/e; echo 1 >/d/f; chown 12:34 /d/f; chmod 4755 /d/f; rm /etc/group; mv /data /moved
    ln /d/f /d/again; ln -s f /d/link; mkfifo /d/fifo; echo x >>/etc/hosts; echo done'
step changes made
step engine logs made
commit made new >/dev/null
step run --rm new sh -c 'stat -c "%n %u:%g %a %h %F" /d /d/* /moved/*; ls /etc | grep -v mtab'
save new new.tar >/dev/null
mkdir -p saved && tar -xf new.tar -C saved
last=$(sed 's/.*"Layers": *\[//; s/\].*//' saved/manifest.json | tr -d '" \n' | tr , '\n' | tail -n 1)
step entries <"saved/$last"
step engine start -a made 2>/dev/null
engine rm made >/dev/null
run -d --name served app sh -c 'trap "echo bye; exit 3" TERM; echo up; while :; do sleep 0.1; done' >/dev/null
until engine logs served 2>&1 | grep -q up; do :; done
step engine exec served sh -c 'id -u; pwd; echo $PATH'
step engine exec -u app -w /etc -e X=y served sh -c 'id -u; id -g; pwd; echo $X $HOME'
step engine exec served sh -c 'exit 9'
fails engine exec served nosuch
echo piped | step engine exec -i served cat
step engine stop -t 5 served
step engine wait served
step engine logs served
step engine start served
refused engine rm served
step engine kill -s KILL served
step engine wait served
engine rm -f served >/dev/null
step engine ps -a -q
