# What short.sh leaves out: buildah, volumes, cached builds, exec, copies, isolation by the runtime, hundreds of layers.
cat >Containerfile.more <<'END'
FROM base
RUN mkdir -p /deep/a/b && echo one >/deep/a/b/file && chown -R 12:34 /deep/a
RUN mv /deep/a /deep/c && chmod 1750 /deep/c && rm -r /home/own && mkdir /home/own && echo two >>/data/a
RUN --mount=type=cache,target=/cache touch /cache/x && ln -s ../deep /data/link && touch -h -d @1000000000 /data/link
COPY --chown=55:66 a /deep/c/a
VOLUME /deep/c
END
say build -q --network host --isolation=chroot -f Containerfile.more -t more .
say build -q --network host --isolation=chroot -f Containerfile.more -t again .
podman inspect --format '{{len .RootFS.Layers}}' more again
[ "$(podman inspect --format '{{.Id}}' more)" = "$(podman inspect --format '{{.Id}}' again)" ]; echo "cached: $?"
say build -q --network host --isolation=chroot --layers=false -f Containerfile.more -t flat .
say run --rm $net more sh -c "$(list /deep /data /home /suid)"
say run --rm $net flat sh -c "$(list /deep /data /home /suid); stat -c %Y /data/link"
say run --rm $net -v named:/deep/c more sh -c "echo v >/deep/c/volume; chown 7:8 /deep/c/volume; $(list /deep)"
say run --rm $net $MAPS -v named:/other -v named:/ro:ro more sh -c "exec 2>&1; touch /ro/x; $(list /other)"
say run --rm $net --userns=auto:size=3000 more sh -c "$(list /deep /data)"
say run --rm $net --read-only --tmpfs /scratch more sh -c 'exec 2>&1; touch /scratch/x; touch /deep/x; touch /deep/c/x; echo $?'
say run --rm $net -u 1000:1000 more sh -c 'exec 2>&1; id -u; /suid; touch /data/no; touch /home/yes; ls -n /home | wc -l'

echo "- a container that runs"
say run -d $net $KEEP -u 0 --name runs more sleep 1000
say exec runs sh -c 'exec 2>&1; mv /data/renamed /data/x && mkdir /data/fresh && touch /data/fresh/new; chown 3:4 /data/x; ls /data'
say cp a runs:/data/copied
say cp runs:/data/x "$TMPDIR/out"
find "$TMPDIR/out" -printf '%P %m %y\n' | sort
podman diff runs | sort
say stop -t 0 runs
say start runs
say exec runs sh -c "$(list /data /deep)"
podman export runs | entries | grep -v ' etc/'
say rm -f -t 0 runs

echo "- buildah"
buildah from -q --name work more; echo "= $?"
buildah run --isolation=chroot work sh -c 'mv /data/renamed /data/moved; chown -R 21:22 /data/moved; rm /data/second; id -u'; echo "= $?"
buildah run --isolation=chroot --user 1000 work sh -c '/suid; touch /home/byuser'; echo "= $?"
buildah copy -q --chown 5:6 work a /data/by-copy; echo "= $?"
buildah config --entrypoint '["/suid"]' work
buildah commit -q work worked; echo "= $?"
buildah rm work >/dev/null; echo "= $?"
say run --rm $net --entrypoint sh worked -c "$(list /data /home)"
say run --rm $net -u 1000 worked

echo "- as many layers as podman takes"
say load -q -i many.tar
podman inspect --format '{{len .RootFS.Layers}}' many
say run --rm $net many sh -c "cat /many/shared; ls /many | wc -l; $(list /many)"
say run --name wide $net many sh -c 'mv /many/d /many/e && rm /many/f9 && chown 12:34 /many/f8 && echo x >>/many/shared && ls /many/e | wc -l'
podman diff wide | sort
say commit -q wide widened
say run --rm $net widened sh -c "$(list /many)"
printf 'FROM many\nRUN mv /many/d /many/g && touch /many/g/built\n' | podman build -q --network host --isolation=chroot -t built -f - .
say run --rm $net built sh -c "$(list /many)"
