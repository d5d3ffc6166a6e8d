"""The possible words of a command line, for shells that complete them.

click knows commands and options. The table here says what each argument may be: it is read only
when a shell asks, and the modules of commands need not know about completion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from click.shell_completion import CompletionItem

from unionmount.errors import UnionmountError

if TYPE_CHECKING:
    import click

    from unionmount.cli.settings import Settings

VARIABLE = "_UNIONMOUNT_COMPLETE"
"""The variable that a shell sets to ask for completions."""

_MAX_ITEMS = 500

_IMAGE, _SOURCE = ("image",), ("image", "file")
_OPENED = ("container", "mount")
_ARGUMENTS: dict[str, tuple[str, ...]] = {  # by command, or by command and argument
    "cat": _IMAGE,
    "check": _SOURCE,
    "commit": _OPENED,
    "copy": _SOURCE,
    "diff": ("container", "mount", "image"),
    "find": _IMAGE,
    "history": _SOURCE,
    "import": ("file",),
    "images": _IMAGE,
    "inspect": ("container", "mount", "image", "file"),
    "layers": _SOURCE,
    "packages": _SOURCE,
    "ls": _IMAGE,
    "mount": ("container", "image", "file"),
    "pull": _IMAGE,
    "push": _IMAGE,
    "rm": ("container",),
    "rmi": _IMAGE,
    "save": _IMAGE,
    "stats": ("mount",),
    "tag": _IMAGE,
    "sync": _SOURCE,
    "tags": _IMAGE,
    "umount": ("mount", "container"),
    "unmount": ("mount", "container"),
    "which": _IMAGE,
    "mount mountpoint": ("dir",),
    "commit name": _IMAGE,
    "import name": _IMAGE,
    "layers number": (),
    "overlay mountpoint": ("dir",),
}


def add_completion(command: click.Command, name: str) -> click.Command:
    """Set the completion of each argument of a command."""
    for parameter in command.params:
        kinds = _ARGUMENTS.get(f"{name} {parameter.name}", _ARGUMENTS.get(name, ()))
        if parameter.param_type_name == "argument" and kinds:
            parameter._custom_shell_complete = _completer(kinds)  # noqa: SLF001 - no other way in
    return command


Completer = Callable[["click.Context", "click.Parameter", str], list[CompletionItem]]


def _completer(kinds: tuple[str, ...]) -> Completer:
    def complete(
        context: click.Context, _parameter: click.Parameter, begun: str
    ) -> list[CompletionItem]:
        settings = _settings(context)
        # File names come first: a shell uses them if there is nothing else.
        items = [CompletionItem(begun, type=kind) for kind in kinds if kind in ("file", "dir")]
        words: dict[str, None] = {}
        for kind in kinds:
            if kind in _WORDS:
                with suppress(
                    UnionmountError, OSError
                ):  # there is no store yet, or it may not be read
                    words |= dict.fromkeys(_WORDS[kind](settings))
        fitting = [word for word in words if word.startswith(begun) and word.isprintable()]
        return [*items, *map(CompletionItem, fitting[:_MAX_ITEMS])]

    return complete


def _settings(context: click.Context) -> Settings:
    """Return the settings with the store of the command line, which click has not parsed yet."""
    settings: Settings = context.find_root().obj
    for known in (context.find_root(), context):
        root: Any = known.params.get("root")
        if root:
            settings.root = root
    return settings


def _images(settings: Settings) -> Iterable[str]:
    from unionmount.images.reference import Reference

    if not settings.store_root().exists():  # completing words creates no store
        return
    for image in settings.store().list_images():
        for name in image.names:
            yield Reference.parse(name).familiar
        if not image.names:
            yield image.id.short


def _containers(settings: Settings) -> Iterable[str]:
    from unionmount.store.containers import Containers

    if settings.store_root().exists():
        yield from (one.name for one in Containers(settings.store()).all(lambda _error: None))


def _mounts(_settings: Settings) -> Iterable[str]:
    from unionmount.mounting.records import MountTable

    yield from (one.record.mountpoint for one in MountTable.of_user().all())


_WORDS: dict[str, Callable[[Settings], Iterable[str]]] = {
    "image": _images,
    "container": _containers,
    "mount": _mounts,
}


BASH = r"""# unionmount: completion for bash. To use it: source <(unionmount completion bash)
_unionmount_completion() {
    # Names of images have colons, where bash would cut words: the line is cut here, at spaces.
    local line=${COMP_LINE:0:COMP_POINT} reply value kind word
    local -a words
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    word=${words[${#words[@]} - 1]}
    COMPREPLY=()
    reply=$(COMP_WORDS=$line COMP_CWORD=$((${#words[@]} - 1)) \
        _UNIONMOUNT_COMPLETE=bash_complete "$1" 2>/dev/null) || return
    while IFS=, read -r kind value; do
        case $kind in
        dir) compopt -o dirnames 2>/dev/null ;;
        file) compopt -o default 2>/dev/null ;;
        plain) COMPREPLY+=("$value") ;;
        esac
    done <<<"$reply"
    if [[ $word == *:* && $COMP_WORDBREAKS == *:* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*:}"}"}")
    fi
}
complete -o nosort -F _unionmount_completion unionmount
"""
