"""The decision about images of files, and the policy behind every decision.

Mounts import this, so it imports the parser of policies only where there is a policy.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from unionmount.errors import NotTrusted
from unionmount.system.text import printable
from unionmount.trust.places import SYSTEM, policy_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unionmount.trust.policy import Policy, PolicyRule
    from unionmount.trust.scopes import ImageScopes


class FileTrust:
    """The policy of a user, read when the first image is checked."""

    def __init__(
        self, environment: Mapping[str, str] | None = None, *, system: Path = SYSTEM
    ) -> None:
        self.environment = os.environ if environment is None else environment
        self.system = system
        self._read: tuple[Policy | None] | None = None

    def check_file(self, transport: str, path: str) -> None:
        """Raise NotTrusted unless the policy accepts images of a file, a layout or a stream ("-").

        These have no signatures, so they can only be accepted without.
        """
        if self.policy() is not None:
            from unionmount.trust.scopes import scopes_of_path  # noqa: PLC0415 - as below

            self.check_unsigned(scopes_of_path(transport, path), f"{transport}:{printable(path)}")

    def check_unsigned(self, scopes: ImageScopes, what: str) -> None:
        """Raise NotTrusted unless the policy accepts an image without signatures."""
        policy = self.policy()
        if policy is None:
            return
        rule = policy.rule_for(scopes)
        for requirement in rule.requirements:
            if why := requirement.why_unsigned:
                raise refused(what, rule, why)

    def policy(self) -> Policy | None:
        """Return the policy; None if there is none."""
        if self._read is None:
            path = policy_file(self.environment, self.system)
            self._read = (None if path is None else _read(path, self.environment),)
        return self._read[0]


def _read(path: Path, environment: Mapping[str, str]) -> Policy:
    from unionmount.trust.policy import Policy  # noqa: PLC0415 - many machines have no policy

    return Policy.read(path, environment)


def refused(what: str, rule: PolicyRule, why: str) -> NotTrusted:
    """Return the error that names an image, the rule that refuses it, and the reason."""
    return NotTrusted(f"{what}: refused by {rule.where}: {why}")
