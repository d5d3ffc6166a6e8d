"""Requirements without signatures: ``insecureAcceptAnything`` and ``reject`` of policy.json.

Mounts have this module in their memory, and most policies know no others; those of signatures have
a module of their own. Each has ``why_unsigned``, the reason to refuse an image without signatures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unionmount.trust.strict import check_keys

if TYPE_CHECKING:
    from unionmount.images.json_fields import Fields


class AcceptAnything:
    """``insecureAcceptAnything``."""

    why_unsigned = ""


class Reject:
    """``reject``, or a requirement that cannot be met here, for the reason in ``why_unsigned``."""

    def __init__(self, why_unsigned: str) -> None:
        self.why_unsigned = why_unsigned


def parse_plain(fields: Fields) -> AcceptAnything | Reject | None:
    """Parse a requirement that is not about signatures; return None for any other."""
    kind = fields.string("type")
    if kind not in ("insecureAcceptAnything", "reject"):
        return None
    check_keys(fields, ("type",))
    return Reject("the policy rejects it") if kind == "reject" else AcceptAnything()
