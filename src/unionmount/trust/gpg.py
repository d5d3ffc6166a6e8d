"""Signatures by GPG, verified by the program ``gpg`` in a home of its own.

The home has only the keys of the policy, and is removed afterwards. No agent is started, no server
is asked, and the user's keys and configuration do not count.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from unionmount.errors import FormatError, NotTrusted
from unionmount.images.json_fields import MAX_DOCUMENT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PROGRAM = "gpg"
_PREFIX = "[GNUPG:] "
_OPTIONS = ("--batch", "--no-tty", "--no-options", "--no-autostart", "--disable-dirmngr")
_REFUSED = {
    "BADSIG": "the signature is wrong",
    "ERRSIG": "the key is unknown, or the signature cannot be checked",
    "EXPSIG": "the signature has expired",
    "EXPKEYSIG": "the key has expired",
    "REVKEYSIG": "the key is revoked",
    "NODATA": "it is not a GPG signature",
    "DECRYPTION_INFO": "it is encrypted",
    "ENC_TO": "it is encrypted",
}
_PATIENCE = 60.0  # seconds for gpg, which takes milliseconds


class GpgHome:
    """A directory with keys, in which one signature after the other is verified."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._environment = {**environment, "LC_ALL": "C"}
        self._keys: set[str] = set()

    async def add_keys(self, keyring: bytes) -> None:
        """Import all public keys of a keyring, in armour or not."""
        (self._directory / "keyring").write_bytes(keyring)
        for words in await self._run("--import", "keyring"):
            if words[0] == "IMPORT_OK" and len(words) > 2:
                self._keys.add(words[2])

    async def verified(self, signature: bytes) -> bytes:
        """Return the content of a signature by one of the keys; raise FormatError otherwise."""
        if not self._keys:
            raise FormatError("the policy has no GPG key")
        (self._directory / "signature").write_bytes(signature)
        content = self._directory / "content"
        content.unlink(missing_ok=True)
        limit = ("--max-output", str(MAX_DOCUMENT), "--output", "content")
        lines = await self._run(*limit, "--verify", "signature")
        self._check([words for words in lines if words])
        try:
            return content.read_bytes()
        except FileNotFoundError:
            raise FormatError("GPG signature without a content") from None

    def _check(self, lines: Sequence[Sequence[str]]) -> None:
        """Raise FormatError unless there is one signature, which is good, over one content."""
        keywords = [words[0] for words in lines]
        for keyword, reason in _REFUSED.items():
            if keyword in keywords:
                raise FormatError(f"GPG signature: {reason}")
        once = ("NEWSIG", "GOODSIG", "VALIDSIG", "PLAINTEXT")
        if any(keywords.count(keyword) != 1 for keyword in once):
            raise FormatError("GPG signature: not exactly one signature over one content")
        (valid,) = (words for words in lines if words[0] == "VALIDSIG")
        if not self._keys & {valid[1], valid[-1]}:  # the key, or the one that it is a subkey of
            raise FormatError(f"GPG signature: by the key {valid[-1]}, which the policy lacks")

    async def _run(self, *arguments: str) -> list[list[str]]:
        """Run gpg in the home; return the words of its status lines."""
        status = self._directory / "status"
        status.unlink(missing_ok=True)
        home = ("--homedir", str(self._directory))
        command = [_PROGRAM, *_OPTIONS, *home, "--status-file", "status", *arguments]
        try:
            with trio.fail_after(_PATIENCE):
                await trio.run_process(
                    command,
                    stdin=b"",
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    check=False,
                    cwd=self._directory,
                    env=self._environment,
                )
        except FileNotFoundError:
            raise NotTrusted("verifying signedBy needs gpg; install GnuPG (gnupg)") from None
        except trio.TooSlowError:
            raise NotTrusted(f"gpg did not end within {_PATIENCE:g} s") from None
        if not status.exists():
            raise NotTrusted("gpg did not run; 'gpg --version' may show why")
        lines = status.read_text("utf-8", "surrogateescape").split("\n")
        return [line[len(_PREFIX) :].split() for line in lines if line.startswith(_PREFIX)]


async def verify_gpg(
    keyrings: Sequence[bytes], signature: bytes, environment: Mapping[str, str]
) -> bytes:
    """Return the content of a signature by a key of ``keyrings``; raise FormatError otherwise."""
    with tempfile.TemporaryDirectory(prefix="unionmount-gpg-") as name:
        home = GpgHome(Path(name), environment)
        for keyring in keyrings:
            await home.add_keys(keyring)
        return await home.verified(signature)
