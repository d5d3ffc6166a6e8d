# A small image with BusyBox, and one with all execution parameters.
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
printf 'P1=lead\n P2= both \n\tP3="quoted"\nP4=a=b\nP5\nP6=cr\r\nHERE*\nNOT*\nP7=#x\n' >odd
HERETOO=1 step run --rm --env-file odd -e 'HERET*' app sh -c 'env | grep -E "^(P[0-9]|HERE|NOT)" | sort'
printf 'A=1\n=x\n' >bad
fails run --rm --env-file bad app true
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
step engine exec --env-file odd -e P1=other served sh -c 'env | grep -E "^P[0-9]" | sort'
step engine exec served sh -c 'exit 9'
fails engine exec served nosuch
echo piped | step engine exec -i served cat
engine start served >/dev/null
step test $? = 0
step engine stop -t 5 served
step engine wait served
step engine logs served
step engine start served
refused engine rm served
step engine kill -s KILL served
step engine wait served
engine rm -f served >/dev/null
step engine ps -a -q
