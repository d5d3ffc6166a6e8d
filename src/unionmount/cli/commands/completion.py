"""``unionmount completion``."""

from __future__ import annotations

import unionmount.cli.declared as click


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print a script that completes commands, options, and names of images and containers in SHELL.

    bash: source <(unionmount completion bash), in ~/.bashrc. zsh: the same with zsh, in ~/.zshrc
    behind compinit. fish: unionmount completion fish > ~/.config/fish/completions/unionmount.fish
    """
    from unionmount.cli.complete_words import BASH, VARIABLE
    from unionmount.cli.program import cli

    if shell == "bash":
        print(BASH, end="")
        return
    from click.shell_completion import FishComplete, ZshComplete

    kind = {"zsh": ZshComplete, "fish": FishComplete}[shell]
    print(kind(cli, {}, "unionmount", VARIABLE).source())
