"""The decision about images of registries, without what verifies signatures until one is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unionmount.trust.file_trust import FileTrust

if TYPE_CHECKING:
    from unionmount.images.reference import Reference
    from unionmount.registry import RegistryClient


class ImageTrust(FileTrust):
    """The policy of a user, for images of registries as well."""

    async def check_remote(self, client: RegistryClient, ref: Reference, manifest: bytes) -> None:
        """Raise NotTrusted unless the policy accepts the image ``ref`` with this manifest."""
        policy = self.policy()
        if policy is None:
            return
        from unionmount.trust.scopes import scopes_of_reference  # noqa: PLC0415 - with the policy

        rule = policy.rule_for(scopes_of_reference(ref))
        if any(one.why_unsigned for one in rule.requirements):
            from unionmount.trust.verify import check_signed  # noqa: PLC0415 - most need none

            await check_signed(rule, client, ref, manifest, self)
