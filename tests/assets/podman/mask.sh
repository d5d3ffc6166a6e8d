# Modes on disk that force_mask dictates, and those that containers see.
grep -v -e USER -e 'RUN id' Containerfile >Containerfile.mask
say build -q --network host --isolation=chroot -f Containerfile.mask -t base .
say run --rm $net base sh -c "exec 2>&1; $(list /data /home /suid)"
say run --rm $net $KEEP base sh -c "exec 2>&1; id -u; $(list /data /home /suid); touch /tmp/x; stat -c '%n %u:%g' /tmp/x"
say run $net --name changed base sh -c 'mkdir -m 700 /tmp/d; touch /tmp/d/f; chown 12:34 /tmp/d/f; chmod 4711 /tmp/d/f
    mv /data/renamed /data/again; chmod 640 /data/a; chown 7:8 /data/again'
podman diff changed | sort
say commit -q changed committed
say run --rm $net committed sh -c "$(list /data /tmp /suid)"
layers committed
find "$(podman info --format '{{.Store.GraphRoot}}')/overlay" -path '*/diff/data/a' -printf '%m %y\n'
