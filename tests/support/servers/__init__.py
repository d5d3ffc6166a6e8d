"""What tests talk to: Debian's docker-registry, a token server, and a proxy with faults.

All of them listen on loopback, at ports that the kernel chose, and end with their context.
"""

from support.servers.distribution import DockerRegistry, htpasswd
from support.servers.proxy import FaultProxy, Seen
from support.servers.raw import Connection, RawServer
from support.servers.tls import Authority
from support.servers.tokens import TokenServer

__all__ = [
    "Authority",
    "Connection",
    "DockerRegistry",
    "FaultProxy",
    "RawServer",
    "Seen",
    "TokenServer",
    "htpasswd",
]
