#!/bin/sh
# Makes the databases of this directory again, which no program of Debian 12 can write: that of rpm in the
# format ndb (rpm configured with --enable-ndb), and that of apk 3. Each list is what the program itself
# prints of its database.
#
#   make.sh RPM APK    the two programs; rpmbuild is Debian's
set -eu
rpm=$1 apk=$2 here=$(cd "$(dirname "$0")" && pwd) work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

specification() { # name, version, release, epoch or nothing
    echo "Name: $1
Version: $2
Release: $3
${4:+Epoch: $4}
Summary: A package of a test
License: MIT and (GPLv2+ or ASL 2.0)
BuildArch: ${5:-noarch}
%description
Text.
%package -n $1-sub
Summary: A part of it
License: MIT
%description -n $1-sub
Text.
%files
%files -n $1-sub"
}

specification alpha 1.0 1 >alpha.spec
specification beta '2.5~rc1' 3.el9 4 x86_64 >beta.spec
specification gamma-libs 0.1 1 >gamma.spec
for name in alpha beta gamma; do
    rpmbuild -bb --define "_topdir $work/top" --target x86_64 $name.spec
done
rpm() { "$rpm" --define '_db_backend ndb' --dbpath "$work/ndb" "$@"; }
rpm -i --justdb --nodeps --ignorearch --nosignature --noscripts top/RPMS/*/*.rpm
rpm -e --justdb --nodeps alpha-sub
cp ndb/Packages.db "$here/Packages.db"
rpm -qa --qf '%{NAME}|%{EPOCH}|%{VERSION}-%{RELEASE}|%{ARCH}|%{SOURCERPM}|%{LICENSE}\n' |
    sort >"$here/Packages.db.list"

mkdir -p hello/usr/bin
echo hello >hello/usr/bin/hello
"$apk" mkpkg -F hello -I name:hello -I version:2.12-r3 -I arch:x86_64 -I license:GPL-3.0-or-later \
    -I origin:hello-src -I 'description:A friendly program' -I depends:libx -o hello.apk
"$apk" mkpkg -I name:libx -I version:1.0.1_git20240101-r0 -I arch:x86_64 -I 'license:MIT AND Zlib' \
    -I 'description:A library, naïve' -o libx.apk
"$apk" mkpkg -I name:meta -I version:1-r0 -I arch:noarch -I license:custom -o meta.apk
"$apk" --root root --initdb --arch x86_64 --allow-untrusted --no-network add ./*.apk
cp root/lib/apk/db/installed "$here/apk-installed"
"$apk" --root root query --installed --fields name,version,arch,license,origin --format json '*' \
    >"$here/apk-installed.json"
