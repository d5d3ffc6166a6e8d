# Images with one static program and no other file: no shell, no users, no directories.
for name in bare config; do engine load -q -i $name.tar >/dev/null 2>&1 || engine load $name.tar >/dev/null; done
step run --rm bare
step run --rm bare /probe id cwd tty pid
step run --rm bare /probe one 'two words' '' '$HOME' '*'
step run --rm -e A=1 -e B= -e 'C=two words' -e 'D==x' --hostname box bare /probe env
fails run --rm bare sh
fails run --rm bare /bin/sh -c true
fails run --rm bare /etc
fails run --rm bare ''
fails run --rm --entrypoint sh bare
step run --rm --entrypoint /probe bare id a
step run --rm --entrypoint '["/probe","id"]' bare cwd
step run --rm -e PATH=/ bare probe cwd
step run --rm bare ./probe cwd
step run --rm -u 5 bare /probe id env
step run --rm -u 5:6 bare /probe id
refused run --rm -u daemon bare
refused run --rm -u 0:daemon bare
step run --rm config
# HOME of a user without an entry is the working directory in podman, and / in Docker.
step run --rm -e HOME=/h config id env
step run --rm -w / -u 0 -e B=other config cwd id env
fails run --rm --entrypoint /plain config
fails run --rm --entrypoint /script config
fails run --rm --entrypoint /garbage config
fails run --rm --entrypoint /dangling config
fails run --rm --entrypoint /loop config
step run --rm --entrypoint /link config id
for status in 127 255 ${LONG:+1 125 126 128}; do step run --rm bare /probe exit $status; done
for signal in 9 15 ${LONG:+1 2 11 13 34}; do step run --rm bare /probe kill $signal exit 5; done
step run --rm --init bare /probe orphan
step run --rm --init bare /probe exit 6
step run --rm bare /probe orphan
mkdir -p shared && echo shared >shared/file && chmod 777 shared
step run --rm -v "$PWD/shared:/deep/missing/data" bare /probe read /deep/missing/data/file write /deep/missing/data/new text list /deep
step run --rm -v "$PWD/shared/file:/one:ro" bare /probe read /one write /one x
step run --rm -v "$PWD/shared:/with space/and,comma" bare /probe list '/with space/and,comma'
step run --rm --tmpfs /scratch:size=64k,mode=700 bare /probe stat /scratch write /scratch/x y list /scratch
step run --rm --tmpfs /scratch:rw,exec bare /probe stat /scratch
step run --rm --read-only bare /probe write /x y mkdir /d unlink /probe chmod /probe 0
step run --rm bare /probe caps
step run --rm -u 5 --cap-add NET_RAW bare /probe caps
step run --rm --cap-drop ALL bare /probe caps chown /probe 5
step run --rm --privileged bare /probe caps
step alone --rm bare /probe list /sys/class/net
step run --rm bare /probe list /dev list /dev/shm stat /dev/null stat /dev/tty stat /dev/pts stat /proc/self/fd/1 2>/dev/null | sed 's/stat.*fd.*//'
step run --rm bare /probe errors gone id 2>/dev/null
echo input | step run --rm -i bare /probe read /dev/stdin
echo input | step run --rm bare /probe read /dev/stdin

# A container from its first change to its commit.
step run --name made bare /probe mkdir /d mkdir /d/e write /d/f text link /d/f /d/again symlink f /d/link chmod /d/f 4755 chown /d/e 7 \
    write /etc/hosts x write /etc/new y write '/odd name' z rename /d/f /d/g
step changes made
step engine logs made
step engine start -a made
commit made new >/dev/null
step run --rm new /probe stat /d/g stat /d/again stat /d/e read /d/g read /etc/new list /d
save new new.tar >/dev/null
step listed new.tar
step run --name less new /probe unlink /d/again unlink /etc/new rmdir /d/e rename /d/link /moved unlink /probe
step changes less
commit less last >/dev/null
fails run --rm last
save last last.tar >/dev/null
step listed last.tar
engine rm made less >/dev/null

run -d --name served config serve >/dev/null
until engine logs served 2>&1 | grep -q up; do :; done
step engine exec served /probe id cwd
step engine exec -u 0 -w /made -e B=c -e HOME=/h served /probe id cwd env
step engine exec -i served /probe read /dev/stdin </dev/null
fails engine exec served sh
refused engine exec served /garbage
refused engine exec -w /missing served /probe
refused engine exec -u daemon served /probe
step engine exec served /probe exit 200
step engine exec served /probe kill 9
sent=0
for one in USR1 SIGUSR2 15 HUP; do
    step engine kill -s $one served
    sent=$((sent + 1))
    until [ "$(engine logs served 2>&1 | grep -c got)" -ge $sent ]; do :; done
done
step engine logs served
step engine stop -t 20 served
step engine wait served
step engine logs --tail 1 served
engine rm served >/dev/null
