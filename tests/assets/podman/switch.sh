# Make a container with one program, and start it again with the other one.
say build -q --network host --isolation=chroot -t base .
say run $net --name kept base sh -c \
    'exec 2>&1; [ -e /here ] || { touch /here; mv /data/renamed /data/again; rm /data/second; chmod 600 /etc/passwd; rm -r /home/own
     mkdir /home/own; touch /home/own/new; chown 12:34 /data/a; }; cat /etc/passwd; find /data /home /etc -exec stat -c "%n %u:%g %a %F" {} + | sort'
cat "$HOME/.config/containers/storage.conf" | grep mountopt
sed -i "s#^mount_program.*#mount_program = \"$OTHER\"#" "$HOME/.config/containers/storage.conf"
podman info --format '{{index .Store.GraphOptions "overlay.mount_program"}}' | head
say start --attach kept
