"""Commands of docker, podman, skopeo and umoci that are not here, and what to use instead."""

from __future__ import annotations

from collections.abc import Sequence

from unionmount.cli.command_table import COMMANDS

_INSTEAD = {
    "build": "use buildah or 'podman build' for a Containerfile, then 'podman save' and "
    "'unionmount load'; or change a container, and use 'unionmount commit'",
    "compose": "unionmount starts one container at a time; use 'podman compose' for several",
    "create": "'unionmount mount --name NAME IMAGE DIR' makes a container, 'unionmount run' "
    "one that runs",
    "restart": "use 'unionmount stop NAME', then 'unionmount start NAME'",
    "pause": "use 'unionmount kill --signal STOP NAME'",
    "unpause": "use 'unionmount kill --signal CONT NAME'",
    "top": "use 'unionmount exec NAME ps'",
    "port": "containers have the network of the host, so no port is mapped",
    "network": "containers have the network of the host, or none with 'run --network none'",
    "volume": "there are no named volumes; use 'run --volume DIRECTORY:PATH'",
    "pod": "there are no pods; use podman",
    "kube": "there are no pods; use podman",
    "play": "there are no pods; use podman",
    "swarm": "unionmount has no cluster",
    "service": "unionmount has no cluster",
    "stack": "unionmount has no cluster",
    "node": "unionmount has no cluster",
    "secret": "use 'run --volume FILE:PATH:ro'",
    "events": "there is no daemon that could report events; use 'unionmount ps' and 'wait'",
    "info": "use 'unionmount version' and 'unionmount df'",
    "system": "use 'unionmount df' and 'unionmount prune'",
    "update": "the limits of a container are those of 'unionmount run'",
    "manifest": "use 'unionmount inspect', or 'skopeo inspect --raw'",
    "digest": "use 'unionmount inspect'",
    "config": "use 'unionmount inspect', and 'unionmount commit --change' to change it",
    "mutate": "use 'unionmount commit --change'",
    "flatten": "use 'unionmount copy --squash'",
    "append": "mount the image, change it, and use 'unionmount commit'",
    "unpack": "use 'unionmount mount', or 'unionmount export' for a tar",
    "repack": "use 'unionmount commit'",
    "list-tags": "use 'unionmount tags'",
    "catalog": "use 'unionmount search'",
    "delete": "use 'unionmount rmi' for an image of the store; 'skopeo delete' for a registry",
    "untag": "use 'unionmount rmi NAME', which removes the name alone if the image has others",
    "exists": "use 'unionmount inspect', which fails where nothing is found",
    "unshare": "not needed: every command works without root",
    "generate": "not here; use podman",
    "machine": "unionmount works on Linux itself",
    "context": "there is no daemon to choose",
    "plugin": "there are no plugins",
    "trust": "use 'skopeo' or 'cosign' to verify signatures",
    "healthcheck": "use 'unionmount exec NAME COMMAND'",
}
_BY_KIND = {
    "image": {"ls": "images", "list": "images", "rm": "rmi", "remove": "rmi"},
    "container": {"ls": "ps", "list": "ps", "remove": "rm", "prune": "rm"},
    "manifest": {"inspect": "inspect"},
    "system": {"df": "df", "prune": "prune"},
    "buildx": {},
    "builder": {},
}


def instead_of(words: Sequence[str]) -> str | None:
    """Return what to use instead of a command that unionmount does not have, if it is known.

    ``words`` is the command line from the command on: ``image ls`` is one of docker's.
    """
    name, *rest = words
    if name in _BY_KIND and rest:
        command = _BY_KIND[name].get(rest[0], rest[0])
        if command in COMMANDS:
            return f"use 'unionmount {command}'"
    if name in ("buildx", "builder"):
        name = "build"
    found = _INSTEAD.get(name)
    if found is None and name in _BY_KIND:
        return "the commands stand alone, such as 'unionmount images' and 'unionmount ps'"
    return found
