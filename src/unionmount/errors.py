"""What can go wrong, as one tree of exceptions.

::

    UnionmountError
    ├── UsageError            the caller asked for something that makes no sense (exit 2)
    ├── InvalidReference      a name, tag or digest that is not well-formed
    ├── NotFoundError         an image, layer, tag or mount that is not there
    ├── FormatError           an archive, manifest, config, tar or index that is damaged or unknown
    │   ├── DigestMismatch    bytes that are not what their digest says
    │   ├── SizeMismatch      more or fewer bytes than a descriptor says
    │   ├── NotAnImage        a chart, signature or other artifact where an image is wanted
    │   ├── NotRegular        a FIFO, device, directory … where a file is wanted
    │   └── LimitExceeded     well-formed, but larger than a limit allows
    ├── RegistryError         a registry that can't be reached, or does not answer as it should
    │   ├── NotAuthorized     it wants credentials, or other ones
    │   ├── TooManyRequests   it wants to be left alone for longer than we wait
    │   └── TransferError     bytes that did not arrive, however often they were asked for
    ├── StoreError            the store can't be used (newer version, not writable, no space)
    └── MountError            mounting, unmounting or finding a mount failed

A message is one line that names what, where and, where there is one, the digest. Errors of the
operating system (OSError) are passed on where nothing can be added to them.
"""

from __future__ import annotations


class UnionmountError(Exception):
    """The root of all errors that this package raises on purpose."""

    exit_code = 1


class UsageError(UnionmountError):
    """The request makes no sense as it was made."""

    exit_code = 2


class InvalidReference(UnionmountError):
    """A name, tag or digest is not well-formed."""


class NotFoundError(UnionmountError):
    """An image, layer, tag or mount does not exist."""


class FormatError(UnionmountError):
    """An archive, manifest, config, tar or index is damaged or of an unknown kind."""


class NotAnImage(FormatError):
    """A manifest describes something else than an image: a chart, a signature, an attestation."""


class DigestMismatch(FormatError):
    """Bytes do not have the digest that names them."""

    def __init__(self, what: str, expected: str, actual: str) -> None:
        super().__init__(f"{what}: digest is {actual}, expected {expected}")
        self.what = what
        self.expected = expected
        self.actual = actual


class SizeMismatch(FormatError):
    """A blob has more or fewer bytes than its descriptor says."""

    def __init__(self, what: str, expected: int, actual: int, *, at_least: bool = False) -> None:
        more = "at least " if at_least else ""
        super().__init__(f"{what}: size is {more}{actual} bytes, expected {expected}")
        self.what = what
        self.expected = expected
        self.actual = actual


class NotRegular(FormatError):
    """Something that is no regular file stands where one is wanted."""

    def __init__(self, what: str, kind: str) -> None:
        super().__init__(f"{what}: is {kind}, not a regular file")
        self.what = what
        self.kind = kind


class LimitExceeded(FormatError):
    """Something is larger than a limit allows."""


class RegistryError(UnionmountError):
    """A registry cannot be reached, refuses, or does not answer as it should."""


class NotAuthorized(RegistryError):
    """A registry wants credentials, or other ones."""


class TooManyRequests(RegistryError):
    """A registry wants to be left alone for longer than we wait."""


class TransferError(RegistryError):
    """Bytes did not arrive, however often they were asked for."""


class StoreError(UnionmountError):
    """The store cannot be used as it is."""


class MountError(UnionmountError):
    """Mounting, unmounting or finding a mount failed."""
