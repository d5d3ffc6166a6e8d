"""Options of docker and podman that are not offered for containers, and what to do instead."""

from __future__ import annotations

_PORTS = "the network is the host's, so the ports of the program are open there"
_NETWORK = "a container has the network of the host, or --network none"
_NAMESPACES = "a container has these namespaces of its own, and shares no others"
_LIMITS = "the limits that can be set are --memory, --cpus and --pids-limit"
_DEVICES = "--privileged gives all devices of the host"
_HEALTH = "health checks are not run; 'unionmount exec' can run one"
_LOG = "'unionmount logs' prints the log, which is kept beside the container"
_LABELS = "labels belong to images; see 'unionmount commit -c LABEL'"
_RESOLV = "bind a file of your own with -v FILE:/etc/resolv.conf"
_SECCOMP = "put a seccomp profile into /etc/containers/seccomp.json; --privileged uses none"
_AGAIN = "let a service manager run the command again"
_VOLUMES = "there are no named volumes; bind a directory with -v DIR:DST"

_ADVICE = (
    (_PORTS, "-p --publish -P --publish-all --expose"),
    (_NETWORK, "--link --ip --ip6 --mac-address --network-alias --net-alias"),
    ("write --network host or --network none", "--net"),
    (_NAMESPACES, "--pid --ipc --uts --userns --cgroupns --uidmap --gidmap"),
    (_LIMITS, "--memory-swap --memory-reservation --memory-swappiness --kernel-memory"),
    (_LIMITS, "-c --cpu-shares --cpu-period --cpu-quota --cpuset-cpus --cpuset-mems"),
    (_LIMITS, "--blkio-weight --oom-kill-disable --oom-score-adj --device-read-bps"),
    ("limits are those of the caller; set them with ulimit(1) before", "--ulimit"),
    (_DEVICES, "--device --device-cgroup-rule --gpus"),
    (_HEALTH, "--health-cmd --health-interval --health-retries --health-timeout"),
    (_HEALTH, "--health-start-period --no-healthcheck"),
    (_LOG, "--log-driver --log-opt"),
    (_LABELS, "-l --label --label-file --annotation"),
    (_RESOLV, "--dns --dns-option --dns-opt --dns-search"),
    ("bind a file of your own with -v FILE:/etc/hosts", "--add-host --no-hosts"),
    (_AGAIN, "--restart"),
    ("write --user USER:GROUP, or add the user to the group in the image", "--group-add"),
    (_SECCOMP, "--security-opt"),
    ("write --tmpfs /dev/shm:size=SIZE", "--shm-size"),
    ("write 'unionmount kill --signal SIGNAL CONTAINER' to stop it so", "--stop-signal"),
    ("write 'unionmount stop --time SECONDS CONTAINER'", "--stop-timeout"),
    ("the container is known by its name; see --name", "--cidfile --pidfile --conmon-pidfile"),
    (_VOLUMES, "--volumes-from --volume-driver --image-volume"),
    ("redirect the streams; -i passes standard input on", "-a --attach"),
    ("all signals are passed on; see 'unionmount attach --sig-proxy'", "--sig-proxy"),
    ("remove the container of that name with 'unionmount rm -f' before", "--replace"),
    ("no progress is shown unless standard error is a terminal", "-q --quiet"),
    ("", "--sysctl --umask --tz --systemd --pod --rmi --preserve-fds --secret --env-host"),
    ("", "--http-proxy --rootfs --timeout --domainname --storage-opt --isolation --cgroup-parent"),
)
_LATEST = "write the name of the container; 'unionmount ps' lists them"
_ADVICE_FOR_EXEC = (
    ("nothing detaches from the program; -d leaves it running from the start", "--detach-keys"),
    (
        "a program has the rights that 'unionmount run --privileged' gave its container",
        "--privileged",
    ),
    ("", "--preserve-fds"),
    (_LATEST, "-l --latest"),
)
_ADVICE_ON = {
    **dict.fromkeys(("run", "shell", "bundle"), _ADVICE),
    "exec": _ADVICE_FOR_EXEC,
    **dict.fromkeys(("attach", "logs", "start", "stop", "kill"), ((_LATEST, "-l --latest"),)),
}


def advice_for(command: str, option: str) -> str | None:
    """Return the message for an option that engines have and ``command`` has not; or None."""
    for advice, names in _ADVICE_ON.get(command, ()):
        if option in names.split():
            return f"'{option}' is not offered{': ' if advice else ''}{advice}"
    return None
