# A real Debian: its programs change users, packages, links, capabilities and whole trees.
engine load -q -i debian.tar >/dev/null 2>&1 || engine load debian.tar >/dev/null
image=unionmount/real:built
# Besides: the mount point of a volume, a directory of which only the time changes, and whiteouts in one that was made
# again, for which unionmount has one mark.
left="($left|/?(tools|var/lib/dpkg/updates|etc/skel/\.wh\..*)/?)"
# Everything but devices, which a user's podman has not got, what engines bring, a file from 1960, which is from 1970 in
# podman, and the root directory, whose mode is 555 in podman if the image does not say.
brought='/(proc|sys|dev|tools|run/.containerenv|etc/(hosts|hostname|resolv.conf|mtab)|opt/fixture/old)'
tree="find / -xdev -mindepth 1 -regextype posix-extended -regex '$brought' -prune -o ! -type b ! -type c"
files="$tree ! -type d -printf '%p %y %m %U:%G %s %n %T@ %l\n' | sort"
directories="$tree -type d -printf '%p %m %U:%G\n' | sort"
mkdir -p tools && cp "$(command -v getcap)" "$(command -v setcap)" "$(command -v setfattr)" "$(command -v getfattr)" \
    "$(command -v setfacl)" "$(command -v getfacl)" tools
# Two versions of a package, whose scripts make a user.
for version in 1 2; do
    rm -rf package && mkdir -p package/DEBIAN package/etc/parity package/usr/bin package/usr/lib/parity-$version
    printf '%s\n' 'Package: parity' "Version: $version" 'Architecture: all' 'Maintainer: Nobody <nobody@example.org>' \
        'Description: test' >package/DEBIAN/control
    echo /etc/parity/settings >package/DEBIAN/conffiles
    echo "setting $version" >package/etc/parity/settings
    printf '#!/bin/sh\necho version %s\n' $version >package/usr/bin/parity
    echo "$version" >package/usr/lib/parity-$version/file
    printf '#!/bin/sh\nset -e\n[ "$1" != configure ] || getent passwd parity >/dev/null || useradd -r -u 777 parity\n' \
        >package/DEBIAN/postinst
    chmod 755 package/usr/bin/parity package/DEBIAN/postinst
    dpkg-deb --root-owner-group -b package tools/parity_$version.deb >/dev/null
done

step run --rm $image cat /etc/debian_version
step run --rm $image bash -c "$files"
step run --rm $image bash -c "$directories"
step run --rm $image bash -c 'dpkg-query -W; dpkg -V dpkg bash apt coreutils'
step run --rm -u nobody $image bash -c 'id; pwd; echo $HOME; touch /x; ls /root'
step run --rm -u _apt:mail $image id
step run --rm -u 1:2 $image id
step run --rm -w /etc/apt $image ls
step run --rm -e LC_ALL=C.UTF-8 $image bash -c 'echo "$LC_ALL $PATH"; locale charmap'
step run --rm --entrypoint perl $image -e 'print "$0 @ARGV $>\n"' one two
step run --rm $image bash -c 'exec 2>&1; for name in null zero full random tty ptmx; do stat -c "%n %t,%T %a %u:%g" /dev/$name; done
    readlink /dev/fd /dev/stdin /dev/stdout /dev/stderr; echo x >/dev/full; head -c 3 /dev/zero | od -c; ls /dev'
step run --rm $image bash -c 'exec 2>&1; mknod /x c 1 3; mount -t tmpfs none /mnt; chroot / true; echo $?; hostname other; dmesg | head -n 1; nice -n -5 true'
step run --rm $image bash -c 'exec 2>&1; echo 10.1.2.3 elsewhere >>/etc/hosts; getent hosts elsewhere; rm /etc/hosts; mv /etc/hosts /etc/x; sed -i s/a/b/ /etc/hosts 2>&1 | sed s/sed......:/sed:/; ln /etc/hosts /etc/y'
step run --rm $image bash -c 'exec 2>&1; ulimit -n 100; ulimit -n; umask; getconf _NPROCESSORS_ONLN | wc -l; df / | tail -n 1 | awk "{print \$6}"'
step run --rm --tmpfs /var/lib/apt $image bash -c 'ls /var/lib/apt; stat -f -c %T /var/lib/apt'
step run --rm -v "$PWD/tools:/etc/apt:ro" $image bash -c 'exec 2>&1; ls /etc/apt; touch /etc/apt/x'
step run --rm $image bash -c 'trap "echo ended" EXIT; kill -TERM $$; echo alive'
step run --rm $image timeout -s KILL 0.1 sleep 10

run -d --name work -v "$PWD/tools:/tools:ro" $image bash -c 'trap "exit 5" TERM; echo up; while :; do sleep 0.2; done' >/dev/null
until engine logs work 2>&1 | grep -q up; do :; done
inside() { engine exec work bash -c "exec 2>&1; $1"; }
as() { engine exec -u "$1" work bash -c "exec 2>&1; $2"; }
step inside 'groupadd -g 2500 team; useradd -m -u 1500 -s /bin/bash -G team alice; echo alice:secret | chpasswd; id alice; ls -lan /home/alice | tail -n +4 | cut -c 1-40'
step as alice 'id; pwd; echo $HOME; touch mine ~/mine; ls -l ~/mine | cut -d " " -f 1-4'
step as alice:mail id
step inside 'su alice -c "id -un; cd; pwd; touch ~/by-su"; su - alice -c "pwd; umask"; su nobody -s /bin/sh -c id'
step inside 'cp /usr/bin/id /usr/local/bin/rootid; chmod 4755 /usr/local/bin/rootid; cp /usr/bin/id /usr/local/bin/teamid; chgrp team /usr/local/bin/teamid; chmod 2755 /usr/local/bin/teamid'
step as alice 'rootid -u; teamid -g; /opt/fixture/setuid-too; echo $?'
step inside 'cp /usr/bin/grep /usr/local/bin/capable; /tools/setcap cap_net_bind_service,cap_chown+ep /usr/local/bin/capable; /tools/getcap /usr/local/bin/capable /opt/fixture/special/ping'
step as alice 'capable -E "^Cap(Eff|Prm)" /proc/self/status'
step inside 'chown root /usr/local/bin/capable; /tools/getcap /usr/local/bin/capable; /tools/setcap cap_chown=ep /usr/local/bin/capable'
step inside 'cd /opt/fixture/hardlinks; stat -c "%n %h" a b c; rm b c; echo more >>a; tail -n 1 a; ln a d; stat -c "%n %h" a d; ln d b; stat -c "%n %h" *[abd]'
step inside 'cd /opt/fixture; mkdir -p own; echo x >own/1; ln own/1 own/2; ln own/1 special/3; chmod 600 own/2; stat -c "%n %h %a" own/1 own/2 special/3; ln -s ../own/1 kept/link; cat kept/link'
step inside 'cd /opt/fixture; rm -r opaque gone-for-buildah; ls opaque; rm -r emptied/*; ls -A emptied; rm -r replaced; echo file >replaced; cat replaced'
step inside 'cd /opt/fixture; mv kept moved; ls moved; ls kept; mv moved/file2 back; mv moved kept; mv own renamed; mkdir own; mv /etc/skel /etc/was-skel; ls -A /etc/was-skel; mkdir /etc/skel'
step inside 'cd /opt/fixture; rm becomes-directory; mkdir becomes-directory; touch becomes-directory/x; rm -r becomes-file; echo x >becomes-file; mv -T becomes-symlink becomes-other; ln -s becomes-other becomes-symlink; ls becomes-symlink'
step inside 'cd /opt; path=$(printf "deep%.0s/" {1..200}); mkdir -p $path; echo bottom >$path/file; cat $path/file; find deep | wc -l; mv deep deeper; find deeper -type f | wc -c; rm -r deeper/deep/deep/deep; find deeper | wc -l'
step inside 'name=$(printf "n%.0s" {1..240}); mkdir /opt/$name; echo x >/opt/$name/$name; cat /opt/$name/$name; touch /opt/${name}1234567890123456; printf "odd\n" >"/opt/a b\"$(printf "\\303\\244\\\\")"; ls -b /opt | tail -n 1 | cut -c 1-40'
step inside 'rm -r /usr/share/doc /usr/share/man /usr/share/locale; ls /usr/share | wc -l; cp -a /usr/share/perl5 /opt/copied; diff -r /usr/share/perl5 /opt/copied && echo same'
step inside 'truncate -s 10M /opt/sparse; printf end | dd of=/opt/sparse seek=5000000 bs=1 conv=notrunc status=none; stat -c "%s" /opt/sparse; tail -c 5 /opt/sparse | od -c | head -n 1; fallocate -l 64K /opt/full; stat -c %s /opt/full; truncate -s 3 /etc/issue; cat /etc/issue; echo; mkfifo -m 620 /opt/fifo; chown 7:8 /opt/fifo'
step inside '/tools/setfattr -n user.note -v "of the test" /etc/motd /opt/fixture/kept; /tools/getfattr -d -m user /etc/motd /opt/fixture/kept /opt/fixture/special/attributes 2>&1 | head -n 20; /tools/setfattr -n trusted.x -v y /etc/motd'
step inside 'chown -R alice:team /opt/fixture/gone; find /opt/fixture/gone -printf "%p %u:%g\n" | sort; chown -h 12:34 /opt/fixture/kept/link; chmod 1777 /opt/fixture/own; touch -d "2001-02-03 04:05:06.789 UTC" /opt/full; stat -c "%Y %y" /opt/full | cut -d " " -f 1,3'
step inside 'dpkg -i /tools/parity_1.deb; parity; id parity; dpkg -L parity; dpkg -V parity; echo changed >>/etc/parity/settings'
step inside 'apt-get install -y -q --allow-downgrades -o Dpkg::Options::=--force-confold /tools/parity_2.deb 2>&1 | grep -E "Setting up|Unpacking|newly"; parity; cat /etc/parity/settings; ls /etc/parity /usr/lib | grep -E "parity|settings"; apt-mark showmanual | grep parity'
step inside 'dpkg -r parity; ls /etc/parity; dpkg --purge parity; ls /etc/parity; dpkg --audit; dpkg -i /tools/parity_2.deb'
step inside 'perl -e "use Fcntl qw(:flock); open F, q(>>), q(/opt/lock); print flock(F, LOCK_EX) ? qq(locked\n) : qq(\$!\n); use IO::Socket::UNIX; print IO::Socket::UNIX->new(Listen => 1, Local => q(/opt/socket)) ? qq(bound\n) : qq(\$!\n)"; rm /opt/socket'
step inside 'cd /tmp; for number in {1..300}; do echo $number >f$number; done; rm f*1; for number in {2..9}; do mv f$number g$number; done; ls | wc -l; cat g* | sort | tr "\n" " "; echo; ls -f | sort | head -n 3; rm g*; mkdir d; mv f* d; ls; ls d | wc -l'
step inside 'echo in >>/etc/hosts; cat /etc/hosts | tail -n 1; rm -f /etc/hostname; echo x >/etc/resolv.conf; rm /etc/debian_version; date >/run/at; rm /run/at; ldconfig; rm -rf /var/cache/ldconfig /var/lib/apt/lists/* /tmp/d/f2* /var/cache/apt/*.bin /var/log/*log /var/log/apt /etc/shadow-; usermod -p x alice; usermod -p y alice'
step engine exec work sh -c 'kill -9 $$'
refused engine exec -u bob work true
step engine stop -t 20 work
step engine wait work
step changes work
commit work later >/dev/null
save later later.tar >/dev/null
step listed later.tar
step run --rm later bash -c "$(echo "$files" | sed 's/ %T@//')"
step run --rm later bash -c "$directories"
step run --rm -u alice later bash -c 'id; rootid -u; capable Eff /proc/self/status; ls ~'
step engine start work
engine exec work parity >/dev/null 2>&1
step engine exec work bash -c 'ls /opt/fixture | wc -l; cat /etc/debian_version 2>&1'
step engine kill work
step engine wait work
engine rm work >/dev/null
