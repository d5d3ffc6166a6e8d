"""The exceptions of this package, as one tree.

::

    UnionmountError
    ├── UsageError            the request is not valid (exit status 2)
    ├── InvalidReference      a name, tag or digest is not well-formed
    ├── NotFoundError         an image, layer, tag or mount does not exist
    ├── FormatError           an archive, manifest, config, tar or index is damaged or unknown
    │   ├── DigestMismatch    the bytes do not have their digest
    │   ├── SizeMismatch      more or fewer bytes than a descriptor says
    │   ├── NotAnImage        a chart, signature or other artifact instead of an image
    │   ├── NotRegular        a FIFO, device, directory … instead of a regular file
    │   └── LimitExceeded     well-formed, but larger than a limit
    ├── RegistryError         a registry cannot be reached, or does not answer correctly
    │   ├── NotAuthorized     it requires credentials, or other ones
    │   ├── TooManyRequests   it requests a longer pause than permitted
    │   └── TransferError     bytes did not arrive after all attempts
    ├── NotTrusted            a policy (policy.json) refuses an image
    ├── StoreError            the store cannot be used (newer version, not writable, no space)
    └── MountError            mounting, unmounting or finding a mount failed

A message is one line that says what is wrong with which file, image or digest. Errors of the
operating system (OSError) are passed on if nothing can be added to them.
"""

from __future__ import annotations


class UnionmountError(Exception):
    """The base class of all errors that this package raises on purpose."""

    exit_code = 1


class UsageError(UnionmountError):
    """The request is not valid."""

    exit_code = 2


class InvalidReference(UnionmountError):
    """A name, tag or digest is not well-formed."""


class NotFoundError(UnionmountError):
    """An image, layer, tag or mount does not exist."""


class ImageNotFound(NotFoundError):
    """No image of the store has the name or ID ``word``."""

    def __init__(self, word: str, message: str) -> None:
        super().__init__(message)
        self.word = word


class FormatError(UnionmountError):
    """An archive, manifest, config, tar or index is damaged or of an unknown kind."""


class NotAnImage(FormatError):
    """A manifest describes an artifact, such as a chart or a signature, instead of an image."""


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
    """A file that is not regular is in the place of a regular one."""

    def __init__(self, what: str, kind: str) -> None:
        super().__init__(f"{what}: is {kind}, not a regular file")
        self.what = what
        self.kind = kind


class LimitExceeded(FormatError):
    """Data is larger than a limit."""


class RegistryError(UnionmountError):
    """A registry cannot be reached, refuses, or does not answer as it should."""


class NotAuthorized(RegistryError):
    """A registry requires credentials, or other ones."""


class TooManyRequests(RegistryError):
    """A registry requests a longer pause than permitted."""


class TransferError(RegistryError):
    """Bytes did not arrive after all attempts."""


class NotTrusted(UnionmountError):
    """A policy refuses an image, or its signatures cannot be verified."""


class StoreError(UnionmountError):
    """The store cannot be used."""


class MountError(UnionmountError):
    """Mounting, unmounting or finding a mount failed."""
