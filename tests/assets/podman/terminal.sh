# Programs on a terminal: keys, window size, job control, attaching. podman detaches only if it reads each key alone, so
# the tests of unionmount see to that.
export TERM=xterm
engine load -q -i app.tar >/dev/null 2>&1 || engine load app.tar >/dev/null
# Run steps at the terminal of a command of the engine.
at() { step "$PYTHON" on_terminal.py "$@"; }
# podman sets the size when the program runs already, which may interrupt a read.
sizes='has() { until [ "$(stty size 2>/dev/null)" = "$1" ]; do sleep 0.1; done; }'$'\n'
loop='echo ready; while read x; do echo "[$x]"; [ "$x" != end ] || exit 0; done'

at see 0:0 see / -- "${run[@]}" --rm -it app sh -c 'echo $(id -u):$(id -g); pwd'
at see ready resize 33 77 see big resize 20 200 see wide type 'word\n' see '[word]' type '\x03' see INT \
    -- "${run[@]}" --rm -it app sh -c "trap 'echo INT; exit 3' INT; $sizes has '24 100'; echo ready; has '33 77'; echo big; has '20 200'; echo wide
        read x; echo [\$x]; while :; do sleep 0.1; done"
at see '1 0 0' -- "${run[@]}" --rm -t app sh -c 'test -t 0; a=$?; test -t 1; b=$?; echo 1 $a $b; exit 4'
at see '/ # ' type 'sh -c "echo o""n; exec cat"\n' see '\non' type 'x\n' see 'x\r\nx\r\n' type '\x1a' see Stopped see '# ' \
    type 'jobs\n' see '[1]+' see '# ' type 'fg\n' see 'sh -c' see '\r\n' type 'y\n' see 'y\r\ny' type '\x04' see '# ' \
    type 'sh -c "echo o""n; exec sleep 100"\n' see '\non' type '\x03' see '# ' type 'echo $?\n' see '130' see '# ' \
    type 'exit 7\n' -- "${run[@]}" --rm -it app
at see '/ # ' type 'echo o""ne; false\n' see '\none' see '# ' type '\x04' -- "${run[@]}" --rm -it app
at see up type '\x1c' see QUIT -- "${run[@]}" --rm -it app sh -c 'trap "echo QUIT; exit 4" QUIT; echo up; while :; do sleep 0.1; done'
at see up type '\x03' see 130 -- "${run[@]}" --rm -it app sh -c 'trap : INT; sh -c "echo up; exec sleep 100"; echo $?; exit 9'
at see '~' type 'ihello' see 'I /tmp/f' type '\x1b' see '- /tmp/f' type ':wq\n' see HELLO \
    -- "${run[@]}" --rm -it app sh -c 'vi /tmp/f; tr a-z A-Z </tmp/f; exit 5'
at see 23 type G see 500 type q see DONE -- "${run[@]}" --rm -it app sh -c 'seq 1 500 >/tmp/f; less /tmp/f; echo done | tr a-z A-Z'
at see Mem: see PID type q -- "${run[@]}" --rm -it app top
at see '[abc]' -- "${run[@]}" --rm -it -e TERM=vt100 app sh -c 'echo "[abc]"; echo "$TERM" | grep -q vt100'
at see '1 1 1' -- "${run[@]}" --rm -i app sh -c 'test -t 0; a=$?; test -t 1; b=$?; test -t 2; echo $a $b $?'
at see ready type 'word\n' see '<word>' type '\x04' -- "${run[@]}" --rm -i app sh -c 'echo ready; while read x; do echo "<$x>"; done; exit 6'
at see up signal 15 see TERM -- "${run[@]}" --rm -i app sh -c 'trap "echo TERM; exit 8" TERM; echo up; while :; do sleep 0.1; done'
at see up type '\x03' see INT -- "${run[@]}" --rm -i app sh -c 'trap "echo INT; exit 8" INT; echo up; while :; do sleep 0.1; done'
run -dit --name kept app sh -c "$loop" >/dev/null
until engine logs kept 2>&1 | grep -q ready; do :; done
step engine exec kept sh -c 'test -t 0; echo $?; test -c /dev/console; echo $?'
at see '/dev/pts/' see 24 see 100 type 'echo o""n; exit 4\n' see '\non' \
    -- "${engine[@]}" exec -it kept sh -c 'tty; until [ "$(stty size)" = "24 100" ]; do :; done; stty size; exec sh'
at see up type '\x03' see 130 -- "${engine[@]}" exec -it kept sh -c 'trap : INT; sh -c "echo up; exec sleep 100"; echo $?; exit 3'
at see up type '\x04' -- "${engine[@]}" exec -it -u 1000 kept sh -c 'echo up; cat; id -u >/dev/tty; exit 2'
at type 'a\n' see '[a]' resize 41 91 type '\x10b\n' see 'b]' type 'end\n' see '[end]' -- "${engine[@]}" attach kept
[ "$(engine exec kept echo on 2>/dev/null)" != on ] || engine kill kept >/dev/null
step engine wait kept
at see ready type 'again\n' see '[again]' type 'end\n' -- "${engine[@]}" start -a -i kept
engine rm -f kept >/dev/null
step engine ps -a --format '{{.Names}} {{.Command}} {{.Status}}'
