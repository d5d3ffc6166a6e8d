"""The commands: the module and the help of each, without importing any."""

from __future__ import annotations

COMPLETE = "_UNIONMOUNT_COMPLETE"  # set by a shell that asks for completions

GROUPS: dict[
    str, dict[str, tuple[str, str]]
] = {  # name: (module, help); listing commands imports no module
    "Mount and change": {
        "mount": ("mount", "Mount an image, writable or read-only."),
        "umount": ("umount", "Unmount images."),
        "unmount": ("umount", "Alias of umount."),
        "ps": ("ps", "List mounts and containers."),
        "diff": ("diff", "Show the changes in a container, or between two images."),
        "cp": ("cp", "Copy files out of images and containers, and into containers."),
        "commit": ("commit", "Make an image of a container."),
        "rename": ("rename", "Give a container another name."),
        "rm": ("rm", "Remove containers."),
        "overlay": ("overlay", "Mount directories on top of each other, as overlayfs does."),
        "stats": ("stats", "Show the kernel's requests to a mount, and their times."),
    },
    "Run": {
        "run": ("run", "Run a program of an image in a container."),
        "shell": ("shell", "Start a shell in an image, a container or a mount."),
        "start": ("start", "Run a container again."),
        "stop": ("stop", "Stop running containers."),
        "kill": ("kill", "Send a signal to running containers."),
        "wait": ("wait", "Wait for containers, and print their exit status."),
        "exec": ("exec", "Run another program in a running container."),
        "attach": ("attach", "Join a running container."),
        "logs": ("logs", "Print the output of a container."),
        "bundle": ("bundle", "Make a bundle of an image for a container runtime."),
    },
    "Look into images": {
        "browse": ("browse", "Look into an image on the screen: layers, changes, files."),
        "ls": ("ls", "List files of an image."),
        "cat": ("cat", "Write files of an image to standard output."),
        "find": ("find", "Search the files of an image."),
        "grep": ("grep", "Search the files of an image for lines."),
        "export": ("export", "Write the files of an image or a container as one tar."),
        "which": ("which", "Show what each layer of an image did to a path."),
        "packages": ("packages", "List the packages of an image, and their layers."),
        "layers": ("layers", "Show the layers of an image, or the changes of one layer."),
        "history": ("history", "Show the steps that made an image."),
        "inspect": ("inspect", "Show the details of images and containers."),
    },
    "Images and store": {
        "images": ("images", "List the images of the store."),
        "import": ("import_", "Make an image of a root file system."),
        "load": ("load", "Load the images of an archive into the store."),
        "save": ("save", "Write images of the store to an archive or a layout."),
        "tag": ("tag", "Give an image another name."),
        "rmi": ("rmi", "Remove images."),
        "df": ("df", "Show the disk usage of the store."),
        "prune": ("prune", "Remove unused data from the store."),
        "share": ("share", "Let others read the images of the store."),
        "check": ("check", "Verify an image or the whole store, and repair the store."),
    },
    "Registries": {
        "pull": ("pull", "Fetch an image from a registry."),
        "push": ("push", "Send an image to a registry."),
        "copy": ("copy", "Copy an image between registries, files and the store."),
        "sync": ("sync", "Copy many tags between repositories and layouts."),
        "tags": ("tags", "List the tags of a repository."),
        "search": ("search", "Search registries for images."),
        "login": ("login", "Log in to a registry."),
        "logout": ("logout", "Log out of a registry."),
    },
    "More": {
        "help": ("help", "Show the help of unionmount or a command."),
        "completion": ("completion", "Print a completion script for a shell."),
        "man": ("man", "Show the manual page of unionmount or a command."),
        "version": ("version", "Print the version."),
    },
}
COMMANDS = {name: entry for group in GROUPS.values() for name, entry in group.items()}
