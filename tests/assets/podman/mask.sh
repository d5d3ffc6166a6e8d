# The files of containers, which are the same whatever modes force_mask dictates on disk. containers/storage itself drops
# set-ID bits and sticky bits then.
grep -v -e USER -e 'RUN id' Containerfile >Containerfile.mask
say build -q --network host --isolation=chroot -f Containerfile.mask -t base .
say run --rm $net base sh -c "exec 2>&1; $(list /data /home)"
if [ "$ENTER" ]; then
    say run --rm $net $KEEP base sh -c "exec 2>&1; id -u; $(list /data /home); touch /tmp/x; stat -c '%n %u:%g' /tmp/x"
fi
say run $net --name changed base sh -c 'mkdir -m 700 /tmp/d; touch /tmp/d/f; chown 12:34 /tmp/d/f; chmod 711 /tmp/d/f
    mv /data/renamed /data/again; chmod 640 /etc/group; chown 7:8 /data/again'
podman diff changed | sort
say commit -q changed committed
say run --rm $net committed sh -c "$(list /data /tmp/d /etc/group)"
layers committed | grep -v ' tmp/ *$'
