"""The name and the secret of a user."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Login:
    """A name and password, or an identity token instead of the password."""

    username: str
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
