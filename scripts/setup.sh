#!/bin/sh
# Leaves .venv/bin/unionmount; with "test" also what the tests and checks need.
#
#   scripts/setup.sh [test]
#
# Installs Debian packages that are missing where the user may, and else prints the line to run.
# A second run compares one stamp and is done. PYTHON=… chooses the interpreter.
set -eu
cd "$(dirname "$0")/.."
extras=${1:-}
venv=.venv
stamp=$venv/unionmount.stamp

say() { printf '%s\n' "$*" >&2; }

# Run a step that takes a while; print its name before and its duration after it.
step() {
    title=$1
    shift
    began=$(date +%s)
    say "$title ..."
    "$@"
    say "$title: done in $(($(date +%s) - began)) s"
}

# An interpreter that can make a virtual environment and compile extensions.
usable_python() {
    "$1" - >/dev/null 2>&1 <<'PYTHON'
import ensurepip, os, sys, sysconfig, venv
assert sys.version_info >= (3, 11)
assert os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))
PYTHON
}

find_python() {
    for candidate in ${PYTHON:-python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11}
    do
        if usable_python "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
}

missing_packages() {
    command -v cc >/dev/null || command -v gcc >/dev/null || printf 'gcc libc6-dev '
    command -v pkg-config >/dev/null || printf 'pkg-config '
    pkg-config --exists fuse3 2>/dev/null || printf 'libfuse3-dev '
    command -v fusermount3 >/dev/null || printf 'fuse3 '
    [ -n "$(find_python)" ] || printf 'python3 python3-venv python3-dev '
}

install_packages() {
    packages=$1
    if ! command -v apt-get >/dev/null; then
        say "unionmount needs what Debian calls: $packages"
        say "Fedora:  dnf install fuse3 fuse3-devel gcc pkgconf-pkg-config python3-devel"
        exit 1
    fi
    if [ "$(id -u)" = 0 ]; then
        as_root=
    elif sudo -n true 2>/dev/null; then
        as_root=sudo
    else
        say "Packages are missing. Please run this line, then try again:"
        say "    sudo apt-get install $packages"
        exit 1
    fi
    say "Installing $packages"
    # shellcheck disable=SC2086
    $as_root env DEBIAN_FRONTEND=noninteractive sh -c \
        "{ apt-get install -y -q --no-install-recommends $packages; } ||
         { apt-get update -q && apt-get install -y -q --no-install-recommends $packages; }" \
        </dev/null >&2
}

# What the installed program depends on besides the Python sources, which are used in place.
fingerprint() {
    { pwd; cat pyproject.toml setup.py programs/* csrc/*.py csrc/*/*.c csrc/*/*.h; } | sha256sum | cut -d' ' -f1
}

current=$(fingerprint)
if [ -x $venv/bin/unionmount ] && [ -e $stamp ] && [ -e src/unionmount/_core.abi3.so ] &&
    $venv/bin/python -c '' 2>/dev/null; then
    case "$(cat $stamp)" in
    "$current test") exit 0 ;;
    "$current ") [ -n "$extras" ] || exit 0 ;;
    esac
    case "$(cat $stamp)" in *test) extras=test ;; esac # what was installed stays up to date
fi

missing=$(missing_packages)
if [ -n "$missing" ]; then
    install_packages "$missing"
    still=$(missing_packages)
    if [ -n "$still" ]; then
        say "unionmount needs Python 3.11 or newer and a C compiler; still missing: $still"
        exit 1
    fi
fi

pip_install() { $venv/bin/python -m pip install -q --disable-pip-version-check "$@" </dev/null >&2; }

# What pyproject.toml asks for, but for unionmount itself: pyfuse3 has to be compiled.
dependencies() {
    $venv/bin/python - "$1" <<'PYTHON'
import sys, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extras = project["optional-dependencies"]
wanted = project["dependencies"] + [one for name in sys.argv[1].split() for one in extras[name]]
print("\n".join(wanted))
PYTHON
}

case "$extras" in
test) groups='browse trust test dev docs' what='.[browse,trust,test,dev,docs]' ;;
*) groups='browse trust' what='.[browse,trust]' ;;
esac
if ! $venv/bin/python -c '' 2>/dev/null; then
    step "Creating the environment $venv" "$(find_python)" -m venv --clear $venv
fi
wanted=$venv/unionmount.requirements
dependencies "$groups" >$wanted
step "Installing the libraries, of which pyfuse3 is compiled" pip_install -r $wanted
step "Compiling the C core and installing unionmount" pip_install -e "$what"
# pip compiles what it copies, but this is used in place: a start takes half as long
step "Compiling the Python sources" $venv/bin/python -m compileall -q src
printf '%s %s' "$current" "$extras" >$stamp
say "$PWD/$venv/bin/unionmount is ready. \`make install\` puts it into PATH, with man pages and"
say "completions: below /usr/local for root, ~/.local for others, or where PREFIX=... says."
