"""Examples of each command, shown at the end of its help and of its manual page.

They stand in one table, so that tests can parse each line as the command line does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click

_BLOCK = "\b\nExamples:"  # \b: click keeps the line breaks of this paragraph

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {  # by command: purpose, and the line to type
    "attach": (("Join a container, and leave it by Ctrl-P Ctrl-Q", "unionmount attach web"),),
    "browse": (
        ("See what each layer changed", "unionmount browse nginx:1.25"),
        ("Look into a container, or a mount", "unionmount browse web"),
        ("Look into the image as it was after layer 2", "unionmount browse --layer 2 app.tar"),
    ),
    "bundle": (
        ("Make a bundle, and run it", "unionmount bundle nginx:1.25 web"),
        ("Run another program", "unionmount bundle nginx:1.25 web -- nginx -t"),
        ("Unmount and remove it", "unionmount bundle --remove web"),
    ),
    "cat": (("Read one file of an image", "unionmount cat app.tar /etc/os-release"),),
    "check": (
        ("Verify the whole store", "unionmount check"),
        ("Rebuild and remove damaged data", "unionmount check --repair"),
        ("Verify an archive and list links that lead nowhere", "unionmount check app.tar"),
    ),
    "commit": (
        ("Make an image of a container", "unionmount commit -m 'Set the time zone' web web:2"),
        ("Leave nothing of what was removed", "unionmount commit --squash web web:2"),
        ("Change the program it starts", "unionmount commit -c 'CMD [\"/bin/hello\"]' web web:3"),
    ),
    "completion": (
        ("Install completion for fish", "unionmount completion fish >unionmount.fish"),
        ("Print the script for bash", "unionmount completion bash"),
    ),
    "copy": (
        (
            "Write an image of a registry to an OCI archive",
            "unionmount copy docker://docker.io/library/nginx:1.25 oci-archive:nginx.oci.tar",
        ),
        (
            "Mirror an image for all platforms",
            "unionmount copy --all docker://docker.io/library/nginx:1.25 "
            "docker://localhost:5000/nginx:1.25",
        ),
        (
            "Copy an image with its signatures and SBOMs",
            "unionmount copy --all --referrers docker://registry.example.com/app:1 "
            "docker://localhost:5000/app:1",
        ),
        (
            "Log in to both registries, and type the passwords",
            "unionmount copy --src-creds you --dest-creds robot "
            "docker://registry.example.com/app:1 docker://localhost:5000/app:1",
        ),
        ("Make one layer of all layers", "unionmount copy --squash app:1 app:flat"),
        ("Give an image to docker", "unionmount copy app:2 docker-daemon:app:2"),
    ),
    "cp": (
        ("Take a file out of an image", "unionmount cp app:1:/etc/nginx.conf ."),
        ("Take a file that a later layer removed", "unionmount cp --layer 1 app:1:/token ."),
        ("Bring a directory into a container", "unionmount cp site/. web:/usr/share/nginx/html"),
        ("Unpack a tar in a container", "unionmount cp - web:/srv <site.tar"),
    ),
    "df": (
        ("Show the sums", "unionmount df"),
        ("Show each image and what it shares", "unionmount df -v"),
    ),
    "diff": (
        ("List the changes in a container", "unionmount diff web"),
        ("Compare two releases", "unionmount diff --stat app:1 app:2"),
        ("Compare their packages alone", "unionmount diff --packages app:1 app:2"),
        ("Print the paths alone", "unionmount diff --format '{{.Path}}' web"),
    ),
    "export": (
        ("Write the files of an image to a tar", "unionmount export -o app.tar app:1"),
        ("Write one directory of a container", "unionmount export -o srv.tar web:/srv"),
    ),
    "find": (
        ("Find private keys", "unionmount find app:1 -name '*.pem' -o -name 'id_rsa*'"),
        ("Find set-user-ID programs", "unionmount find app:1 /usr -type f -perm -4000"),
        (
            "List large files with their layers",
            "unionmount find app.tar -size +10M -printf '%{layer} %s %p\\n'",
        ),
        (
            "Find a file that a later layer removed",
            "unionmount find --all-layers app:1 -name '*.env'",
        ),
        (
            "List files without an owner as JSON",
            "unionmount find --format jsonl app:1 -nouser",
        ),
    ),
    "grep": (
        ("Search a whole image", "unionmount grep -n password app:1"),
        ("Search one directory", "unionmount grep -rE '^(root|web):' app.tar /etc"),
        (
            "Find a token that a later layer removed",
            "unionmount grep -F hunter2 app:1 --all-layers",
        ),
        ("List the scripts of a shell", "unionmount grep -l -m 1 '^#!/bin/bash' app:1 /usr/bin"),
    ),
    "help": (("Show the options of a command", "unionmount help mount"),),
    "history": (
        ("Show the steps of an image", "unionmount history nginx:1.25"),
        ("Show the commands in full", "unionmount history --no-trunc app.tar"),
        ("Print sizes in bytes", "unionmount history -H=false --format '{{.Size}}' app:1"),
    ),
    "images": (
        ("List all images", "unionmount images"),
        ("List the tags of one repository", "unionmount images nginx"),
        ("List images without a name", "unionmount images -f dangling=true"),
    ),
    "import": (
        ("Import a root file system", "unionmount import rootfs.tar.xz debian:12"),
        (
            "Set the program it starts",
            "unionmount import -c 'CMD [\"/bin/sh\"]' rootfs.tar app:1",
        ),
        ("Import a directory", "unionmount import ./rootfs app:1"),
    ),
    "inspect": (
        ("Print everything as JSON", "unionmount inspect nginx:1.25"),
        (
            "List signatures, SBOMs and attestations",
            "unionmount inspect --referrers docker://registry.example.com/app:1",
        ),
        ("Print the environment", "unionmount inspect -f '{{join .Config.Env \"\\n\"}}' app:1"),
        ("Print the manifest as it is stored", "unionmount inspect --raw app.tar"),
        ("Look at an image of a registry", "unionmount inspect --remote nginx:1.25"),
    ),
    "layers": (
        ("Show sizes and wasted bytes of the layers", "unionmount layers app:1"),
        ("List the changes of layer 2", "unionmount layers app:1 2"),
        ("List the ten largest and most wasted files", "unionmount layers --top 10 app:1"),
        (
            "Fail in CI if too much is wasted",
            "unionmount layers --min-efficiency 95% --max-wasted 20MB app:1",
        ),
        ("Look at an image of a registry", "unionmount layers docker://docker.io/library/nginx"),
    ),
    "load": (
        ("Load an archive", "unionmount load -i app.tar"),
        ("Load an image from docker", "unionmount load docker-daemon:app:1"),
        ("Load an image that podman has", "unionmount load containers-storage:app:1"),
        ("Load what docker saved", "docker save app:1 | unionmount load"),
    ),
    "login": (
        ("Log in to Docker Hub", "unionmount login docker.io"),
        (
            "Log in from a script",
            "unionmount login -u robot --password-stdin registry.example.com <password.txt",
        ),
    ),
    "logout": (
        ("Log out of one registry", "unionmount logout registry.example.com"),
        ("Log out of all", "unionmount logout --all"),
    ),
    "ls": (
        ("List the root of an image", "unionmount ls app:1"),
        ("List a directory in full", "unionmount ls -l app.tar /etc"),
        ("List what each layer has there", "unionmount ls --all-layers app.tar /etc"),
    ),
    "man": (
        ("Read the page of a command", "unionmount man mount"),
        ("Write all pages for MANPATH", "unionmount man -o ~/.local/share/man/man1"),
    ),
    "mount": (
        ("Mount an archive read-only", "unionmount mount --ro app.tar image"),
        ("Mount an image that podman has", "unionmount mount --ro containers-storage:app:1 image"),
        ("Mount writable and keep the changes", "unionmount mount --name web nginx:1.25 image"),
        ("Mount the container again", "unionmount mount web image"),
        ("Drop the changes at the unmount", "unionmount mount --ephemeral nginx:1.25 image"),
        ("Show each layer as a directory", "unionmount mount --layers app:1 layers"),
        (
            "Mount only while a command runs",
            "unionmount mount --ro app:1 -- sh -c 'ls $UNIONMOUNT_MOUNTPOINT'",
        ),
    ),
    "overlay": (
        (
            "Mount two directories, with the changes in a third",
            "unionmount overlay -o lowerdir=/srv/top:/srv/base,upperdir=/srv/upper,"
            "workdir=/srv/work merged",
        ),
        ("Mount read-only", "unionmount overlay -o lowerdir=/srv/top:/srv/base merged"),
    ),
    "packages": (
        ("List packages, and the layers that brought them", "unionmount packages app:1"),
        ("Write a bill of materials", "unionmount packages --format cyclonedx app:1 >app.cdx.json"),
        ("List what pip installed", "unionmount packages --kind python app.tar"),
    ),
    "prune": (
        ("Show what would be removed", "unionmount prune --all --dry-run"),
        ("Remove unused data", "unionmount prune"),
    ),
    "ps": (
        ("List mounts", "unionmount ps"),
        ("List containers too", "unionmount ps -a"),
        ("Clean up after daemons that were killed", "unionmount ps --clean"),
    ),
    "pull": (
        ("Fetch an image", "unionmount pull nginx:1.25"),
        ("Fetch it for another machine", "unionmount pull --platform linux/arm64 nginx:1.25"),
    ),
    "push": (
        ("Push an image under its own name", "unionmount push registry.example.com/app:2"),
        ("Push under another name", "unionmount push app:2 localhost:5000/app:2"),
    ),
    "rm": (
        ("Remove a container", "unionmount rm web"),
        ("Unmount it first", "unionmount rm -f web"),
    ),
    "rmi": (("Remove an image", "unionmount rmi app:1"),),
    "exec": (
        ("Start a shell in a container", "unionmount exec -it web sh"),
        ("Run a program as another user", "unionmount exec -u www-data web id"),
    ),
    "kill": (("Have a server read its configuration again", "unionmount kill -s HUP web"),),
    "logs": (
        ("Print the last lines", "unionmount logs -n 20 web"),
        ("Watch it from now on", "unionmount logs -f -n 0 web"),
    ),
    "rename": (("Keep a container under a better name", "unionmount rename calm-owl web"),),
    "share": (
        ("Let a group read the images", "unionmount share --group developers"),
        ("Keep them to oneself again", "unionmount share --off"),
    ),
    "shell": (
        ("Look around in an image", "unionmount shell --rm debian:12"),
        ("In an image without a shell", "unionmount shell --with-tools distroless"),
        ("In an image that is mounted", "unionmount shell web/"),
    ),
    "start": (
        ("Run it again in the background", "unionmount start web"),
        ("Run it again here", "unionmount start -ai web"),
    ),
    "stop": (("Stop a container", "unionmount stop web"),),
    "wait": (("Wait for a job", "unionmount wait job"),),
    "run": (
        ("Start a shell, and remove the container afterwards", "unionmount run -it --rm debian sh"),
        ("Run in the background", "unionmount run -d --name web nginx:1.25"),
        ("Build in a directory of the host", "unionmount run --rm -v .:/src -w /src gcc make"),
    ),
    "save": (
        ("Write an archive for docker load", "unionmount save -o app.tar app:2"),
        (
            "Write an OCI archive with compressed layers",
            "unionmount save --format oci-archive --compress zstd -o app.oci.tar app:2",
        ),
    ),
    "search": (
        ("Search Docker Hub", "unionmount search docker.io/nginx"),
        ("Search a registry of your own", "unionmount search localhost:5000/app"),
    ),
    "stats": (
        ("Show the counters of a mount", "unionmount stats image"),
        ("Watch them", "unionmount stats --watch image"),
    ),
    "sync": (
        (
            "Mirror the versions 1.x, with their signatures",
            "unionmount sync --all --referrers --include '1.*' registry.example.com/app "
            "localhost:5000/app",
        ),
        (
            "See what would be copied",
            "unionmount sync --dry-run --exclude '*-rc*' registry.example.com/app "
            "localhost:5000/app",
        ),
        (
            "Carry tags to a place without a network",
            "unionmount sync --all --include '1.2*' registry.example.com/app "
            "oci-archive:app.oci.tar",
        ),
    ),
    "tag": (("Give an image a second name", "unionmount tag app:1 app:stable"),),
    "tags": (("List the tags of a repository", "unionmount tags docker.io/library/nginx"),),
    "umount": (
        ("Unmount", "unionmount umount image"),
        ("Unmount by the name of the container", "unionmount umount web"),
        ("Unmount everything", "unionmount umount --all"),
    ),
    "version": (
        ("Print the version", "unionmount version"),
        ("Print it for a bug report", "unionmount version -f json"),
    ),
    "which": (("Show which layers changed a file", "unionmount which app:1 /etc/passwd"),),
}


def examples_of(name: str) -> tuple[tuple[str, str], ...]:
    """Return the examples of a command: purpose, and the line to type."""
    return EXAMPLES[name]


def without_examples(epilog: str | None) -> str:
    """Return the epilogue of a command's help without the examples."""
    return (epilog or "").partition(_BLOCK)[0].strip()


def add_examples(command: click.Command) -> click.Command:
    """Add the examples of a command to the end of its help."""
    if command.name is not None:
        text = without_examples(command.epilog)
        command.epilog = "\n".join([*([text, ""] if text else []), _BLOCK, *_lines(command.name)])
    return command


def _lines(name: str) -> Iterator[str]:
    for purpose, line in examples_of(name):
        yield f"  # {purpose}"
        yield f"  {line}"
