"""The Engine API of a docker daemon, which podman's service speaks as well.

::

    DOCKER_HOST, contexts ──► endpoint ──► client ──► registry.http

Only what a source and a target of images need is here: describe an image, stream it, take one.
Source: Docker Engine API v1.41.
"""

from __future__ import annotations

from unionmount.engine.client import EngineClient, EngineImage
from unionmount.engine.endpoint import EngineEndpoint

__all__ = ["EngineClient", "EngineEndpoint", "EngineImage"]
