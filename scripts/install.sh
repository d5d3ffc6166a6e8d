#!/bin/sh
# Puts unionmount into PATH, and takes it away again.
#
#   scripts/install.sh install|uninstall [PREFIX]
#
# PREFIX is /usr/local for root and ~/.local for others, where none is named. The command is a link to
# this directory's .venv, so what is installed is always what stands here; the man pages and the
# completions are copies. A command at that place which is not such a link is left alone.
set -eu
cd "$(dirname "$0")/.."
action=$1
prefix=${2:-}
case "$prefix" in
"") if [ "$(id -u)" = 0 ]; then prefix=/usr/local; else prefix=$HOME/.local; fi ;;
"~/"*) prefix=$HOME/${prefix#??} ;; # the shell leaves it so behind "PREFIX="
esac

command=$(pwd)/.venv/bin/unionmount
link=$prefix/bin/unionmount
man=$prefix/share/man/man1
bash=$prefix/share/bash-completion/completions/unionmount
zsh=$prefix/share/zsh/site-functions/_unionmount
fish=$prefix/share/fish/vendor_completions.d/unionmount.fish

say() { printf '%s\n' "$*" >&2; }

# A link to some directory's .venv is ours; anything else is another program.
ours() {
    case "$(readlink "$link" 2>/dev/null)" in
    */.venv/bin/unionmount) return 0 ;;
    esac
    ! [ -e "$link" ] && ! [ -L "$link" ]
}

if ! ours || { [ -e "$link-overlay" ] && ! [ -L "$link-overlay" ]; }; then
    say "$link is there and was not made by make install; remove it, or choose another PREFIX"
    exit 1
fi

case "$action" in
install)
    mkdir -p "$prefix/bin" "$man" "${bash%/*}" "${zsh%/*}" "${fish%/*}"
    "$command" man -o "$man"
    "$command" completion bash >"$bash"
    "$command" completion zsh >"$zsh"
    "$command" completion fish >"$fish"
    ln -sfn "$command" "$link"
    ln -sfn "$command-overlay" "$link-overlay"
    say "$link, its man pages and the completions of bash, zsh and fish are installed"
    case ":$PATH:" in
    *":$prefix/bin:"*) ;;
    *) say "$prefix/bin is not in PATH; add it there: export PATH=\"$prefix/bin:\$PATH\"" ;;
    esac
    ;;
uninstall)
    rm -f "$link" "$link-overlay" "$man"/unionmount.1 "$man"/unionmount-*.1 "$bash" "$zsh" "$fish"
    say "unionmount is no longer in $prefix"
    ;;
*)
    say "usage: scripts/install.sh install|uninstall [PREFIX]"
    exit 2
    ;;
esac
