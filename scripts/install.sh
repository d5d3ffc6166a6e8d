#!/bin/sh
# Puts unionmount into PATH, and takes it away again.
#
#   scripts/install.sh install|uninstall [PREFIX]
#
# PREFIX is /usr/local for root and ~/.local for others, where none is named. The command is a link to
# this directory's .venv, so what is installed is always what stands here; the man pages and the
# completions are copies. A command at that place which is not such a link is left alone. The helpers
# of mount(8) and umount(8) are links, too: it looks for them in /sbin alone, so that is where those of a PREFIX of
# the system (/usr, /usr/local) go; others have them in PREFIX/sbin.
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
case "$prefix" in
/usr | /usr/local) sbin=/sbin ;;
*) sbin=$prefix/sbin ;;
esac
helpers="mount.unionmount mount.fuse.unionmount umount.fuse.unionmount"

say() { printf '%s\n' "$*" >&2; }

# A link to some directory's .venv is ours; anything else is another program.
ours() {
    case "$(readlink "$1" 2>/dev/null)" in
    */.venv/bin/"${1##*/}") return 0 ;;
    esac
    ! [ -e "$1" ] && ! [ -L "$1" ]
}

check() {
    ours "$1" && return
    say "$1 is there and was not made by make install; remove it, or choose another PREFIX"
    exit 1
}

check "$link"
check "$link-overlay"
for name in $helpers; do check "$sbin/$name"; done

case "$action" in
install)
    mkdir -p "$prefix/bin" "$sbin" "$man" "${bash%/*}" "${zsh%/*}" "${fish%/*}"
    "$command" man -o "$man"
    "$command" completion bash >"$bash"
    "$command" completion zsh >"$zsh"
    "$command" completion fish >"$fish"
    ln -sfn "$command" "$link"
    ln -sfn "$command-overlay" "$link-overlay"
    for name in $helpers; do ln -sfn "${command%/*}/$name" "$sbin/$name"; done
    say "$link, its man pages and the completions of bash, zsh and fish are installed"
    case ":$PATH:" in
    *":$prefix/bin:"*) ;;
    *) say "$prefix/bin is not in PATH; add it there: export PATH=\"$prefix/bin:\$PATH\"" ;;
    esac
    [ "$sbin" = /sbin ] ||
        say "mount(8) looks for its helpers in /sbin; for fstab, as root: ln -s $sbin/*mount.* /sbin/"
    ;;
uninstall)
    for name in $helpers; do rm -f "$sbin/$name"; done
    rm -f "$link" "$link-overlay" "$man"/unionmount.1 "$man"/unionmount-*.1 "$bash" "$zsh" "$fish"
    say "unionmount is no longer in $prefix"
    ;;
*)
    say "usage: scripts/install.sh install|uninstall [PREFIX]"
    exit 2
    ;;
esac
