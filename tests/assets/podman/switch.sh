# Make a container with one program, and start it again with OTHER.
say build -q --network host --isolation=chroot -t base .
say run $net --name kept base sh -c "exec 2>&1
    [ -e /here ] || { touch /here; mv /data/renamed /data/again; rm /data/second; chmod 600 /etc/passwd; rm -r /home/own
        mkdir /home/own; touch /home/own/new; chown 12:34 /data/a; }
    cat /etc/passwd; $(list /data /home /etc)"
sed -i "s#^mount_program.*#mount_program = \"$OTHER\"#" "$CONTAINERS_STORAGE_CONF"
echo "- the other program"
say start --attach kept
