"""What tests talk to: Debian's docker-registry, a token server, and a proxy with faults.

All of them listen on loopback, at ports that the kernel chose, and end with their context.
"""

from registry.servers.distribution import DockerRegistry, htpasswd
from registry.servers.proxy import FaultProxy, Seen
from registry.servers.raw import Connection, RawServer
from registry.servers.tls import Authority
from registry.servers.tokens import TokenServer

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
