# Remove everything, and see that no mount and no layer is left.
say rm -a -f -t 0
say rmi -a -f
say volume rm -a -f
$ENTER findmnt -l -n -o TARGET | grep "^$HOME"
ls "$(podman info --format '{{.Store.GraphRoot}}')/overlay" | grep -v '^l$'
:
