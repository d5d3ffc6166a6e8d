# Build, run, map owners, commit, diff, save: once each.
say build -q --network host --isolation=chroot -t base .
say run --rm $net base sh -c "exec 2>&1; cat /home/ids; id -u; $(list /data /home /suid)"
say run --rm $net $KEEP base sh -c "exec 2>&1; id -u; $(list /data /home /suid); touch /tmp/x; stat -c '%n %u:%g' /tmp/x"
say run --rm $net $MAPS base sh -c "exec 2>&1; $(list /data /home /suid); touch /n; chown 5:6 /n; stat -c '%n %u:%g' /n"
mkdir -p "$TMPDIR/volume" && echo v >"$TMPDIR/volume/v"
say run --rm $net --read-only -v "$TMPDIR/volume:/data/volume" base sh -c \
    'exec 2>&1; touch /n; echo $?; cat /data/volume/v; touch /data/volume/w; ls /data /data/volume'
say run $net $KEEP -u 0 --name changed base sh -c \
    'exec 2>&1; mkdir /tmp/d; echo hi >/tmp/d/f; chown 12:34 /tmp/d/f; rm /data/second; mv /data/renamed /data/again
     chmod 600 /etc/passwd; mknod /tmp/fifo p; ln -s to /tmp/link; chown -h 5:6 /tmp/link; chown 7:8 /data/a'
podman diff changed | sort
say commit -q changed committed
layers committed
$ENTER sh -c 'cd "$(podman image mount committed)" && find data home suid tmp etc -printf "%p %U:%G %m %n %y\n" | sort
    cd / && podman image umount committed >/dev/null; echo $?'
