"""The details of images and containers, with docker's keys in docker's order.

The keys, their order and their types are those of ``docker inspect`` (``image.InspectResponse`` and
``container.Config`` of its API before 1.50), so that scripts and templates work with both.
``Layers`` is specific to unionmount: the location of each layer and the images that share it.
Containers have the keys that make sense without an engine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from unionmount.errors import FormatError
from unionmount.gotemplate import Duration, Map, Slice, Struct, Time
from unionmount.images.json_fields import load_json
from unionmount.images.reference import Reference
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.images.config import Config
    from unionmount.images.opened import OpenImage, OpenLayer
    from unionmount.mounting.records import Status
    from unionmount.store.containers import Container
    from unionmount.store.store import Store, StoredImage
    from unionmount.transfer.remote_image import RemoteImage

_NO_TIME = "0001-01-01T00:00:00Z"
_EMPTY = Struct("struct {}", {})
_STRINGS = ("Hostname", "Domainname", "User")
_HEALTH = ("Interval", "Timeout", "StartPeriod", "StartInterval")


@dataclass(frozen=True, slots=True)
class _ConfigPart:
    """A part of an untrusted config, whose fields are read with their types checked."""

    values: Mapping[str, Any]
    where: str

    def _refuse(self, name: str, wanted: str) -> FormatError:
        return FormatError(f"{self.where}: field '{name}': is not {wanted}")

    def text(self, name: str) -> str:
        value = self.values.get(name)
        if value is not None and not isinstance(value, str):
            raise self._refuse(name, "a string")
        return value or ""

    def flag(self, name: str) -> bool:
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self._refuse(name, "true or false")
        return bool(value)

    def number(self, name: str) -> int | None:
        value = self.values.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise self._refuse(name, "a whole number")
        if value is not None and not -(2**63) <= value < 2**63:
            raise self._refuse(name, "a 64-bit number")
        return value

    def texts(self, name: str) -> Slice:
        value = self.values.get(name)
        value = (
            [value] if isinstance(value, str) else value
        )  # old builders wrote a single command this way
        if value is None:
            return Slice(nil=True)
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self._refuse(name, "a list of strings")
        return Slice(value)

    def keys(self, name: str, of: str) -> Map:
        """Return an object of which only the keys have a meaning."""
        value = self._object(name)
        items = dict.fromkeys(value or (), _EMPTY)
        return Map(items, zero=_EMPTY, of=f"map[{of}]struct {{}}", nil=value is None)

    def labels(self, name: str) -> Map:
        value = self._object(name)
        if not all(isinstance(one, str) for one in (value or {}).values()):
            raise self._refuse(name, "an object of strings")
        return Map(value, nil=value is None)

    def _object(self, name: str) -> dict[str, Any] | None:
        value = self.values.get(name)
        if value is not None and not isinstance(value, dict):
            raise self._refuse(name, "an object")
        return value

    def health(self, name: str) -> Struct | None:
        value = self._object(name)
        if value is None:
            return None
        inner = _ConfigPart(value, f"{self.where}: {name}")
        fields: dict[str, Any] = {"Test": inner.texts("Test")}
        fields |= {name: Duration(inner.number(name) or 0) for name in _HEALTH}
        fields["Retries"] = inner.number("Retries") or 0
        return Struct("container.HealthConfig", fields, omit_empty=frozenset(fields), pointer=True)


def run_config(runtime: Mapping[str, Any], where: str) -> Struct:
    """Return how to run an image, as docker's ``container.Config``."""
    source = _ConfigPart(runtime, where)
    fields: dict[str, Any] = {name: source.text(name) for name in _STRINGS}
    fields |= {name: source.flag(name) for name in ("AttachStdin", "AttachStdout", "AttachStderr")}
    fields["ExposedPorts"] = source.keys("ExposedPorts", "nat.Port")
    fields |= {name: source.flag(name) for name in ("Tty", "OpenStdin", "StdinOnce")}
    fields |= {
        "Env": source.texts("Env"),
        "Cmd": source.texts("Cmd"),
        "Healthcheck": source.health("Healthcheck"),
        "ArgsEscaped": source.flag("ArgsEscaped"),
        "Image": source.text("Image"),
        "Volumes": source.keys("Volumes", "string"),
        "WorkingDir": source.text("WorkingDir"),
        "Entrypoint": source.texts("Entrypoint"),
        "NetworkDisabled": source.flag("NetworkDisabled"),
        "MacAddress": source.text("MacAddress"),
        "OnBuild": source.texts("OnBuild"),
        "Labels": source.labels("Labels"),
        "StopSignal": source.text("StopSignal"),
        "StopTimeout": source.number("StopTimeout"),
        "Shell": source.texts("Shell"),
    }
    optional = {"ExposedPorts", "Healthcheck", "ArgsEscaped", "NetworkDisabled", "MacAddress"}
    optional |= {"StopSignal", "StopTimeout", "Shell"}
    return Struct("container.Config", fields, omit_empty=frozenset(optional), pointer=True)


# ---- images --------------------------------------------------------------------------------------


def inspect_image(store: Store, image: OpenImage, stored: StoredImage | None) -> Struct:
    """Return the details of an image; ``stored`` is its entry in the store, if it has one."""
    sizes = zip(image.layers, image.layer_bytes, _paths_of_layers(image), strict=True)
    layers = [_layer(layer, size, path) for layer, size, path in sizes]
    names = _familiar(stored.names if stored else ()), _familiar(stored.digests if stored else ())
    config = image.image.config
    return _image_struct(config, names, _with_sharing(store, config, layers), _tag_time(stored))


def inspect_remote(remote: RemoteImage) -> Struct:
    """Return the details of an image of a registry; sizes are those of layers in transport."""
    image = remote.image
    layers = [
        Struct(
            "image.Layer",
            {
                "DiffID": str(diff_id),
                "Digest": str(descriptor.digest),
                "MediaType": descriptor.media_type,
                "Size": descriptor.size,
            },
        )
        for diff_id, descriptor in zip(image.diff_ids, image.layers, strict=True)
    ]
    repository = replace(remote.ref, tag=None, digest=remote.root)
    tags = [remote.ref.familiar] if remote.ref.digest is None else []
    names = Slice(tags), Slice([repository.familiar])
    return _image_struct(image.config, names, layers, _NO_TIME)


def _image_struct(
    config: Config, names: tuple[Slice, Slice], layers: list[Struct], tagged: str
) -> Struct:
    where = f"image {config.digest}"
    source = _ConfigPart(load_json(config.raw, where), where)
    fields: dict[str, Any] = {
        "Id": str(config.digest),
        "RepoTags": names[0],
        "RepoDigests": names[1],
        "Parent": source.text("parent"),
        "Comment": source.text("comment") or _last_comment(config),
        "Created": config.created,
        "DockerVersion": source.text("docker_version"),
        "Author": config.author,
        "Config": run_config(config.runtime, where),
        "Architecture": source.text("architecture"),
        "Variant": source.text("variant"),
        "Os": source.text("os"),
        "OsVersion": source.text("os.version"),
        "Size": sum(layer.fields["Size"] for layer in layers),
        "RootFS": Struct(
            "image.RootFS",
            {"Type": "layers", "Layers": Slice([str(one) for one in config.diff_ids])},
            omit_empty=frozenset({"Layers"}),
        ),
        "Metadata": Struct("image.Metadata", {"LastTagTime": Time(tagged)}),
        "Layers": layers,
    }
    optional = frozenset({"Created", "Variant", "OsVersion"})
    return Struct("image.InspectResponse", fields, {"ID": "Id"}, optional)


def _familiar(names: Sequence[str]) -> Slice:
    return Slice([Reference.parse(name).familiar for name in names])


def _last_comment(config: Config) -> str:
    return config.history[-1].comment if config.history else ""


def _tag_time(stored: StoredImage | None) -> str:
    if stored is None:
        return _NO_TIME
    return datetime.fromtimestamp(stored.created, UTC).isoformat().replace("+00:00", "Z")


def _paths_of_layers(image: OpenImage) -> list[str]:
    """Return the path of each layer: of its file, or of its directory in another tool's store."""
    if image.is_unpacked:
        from unionmount.mounting.unpacked import UnpackedImage  # noqa: PLC0415 - rarely needed

        assert isinstance(image, UnpackedImage)
        return [printable(str(path)) for path in image.directories]
    links = [f"/proc/self/fd/{layer.data_fd}" for layer in image.layers]
    return [printable(os.fsencode(os.readlink(link))) for link in links]  # noqa: PTH115


def _layer(layer: OpenLayer, size: int, path: str) -> dict[str, Any]:
    """Return the details of a layer and its location, with an offset inside an archive."""
    return {
        "DiffID": str(layer.diff_id),
        "Size": size,
        "TarSize": layer.length,
        "Path": path,
        "Offset": layer.offset,
    }


def _with_sharing(store: Store, config: Config, layers: list[dict[str, Any]]) -> list[Struct]:
    """Return the details of the layers, with the other images of the store that share them."""
    users: dict[str, list[str]] = {layer["DiffID"]: [] for layer in layers}
    for other in store.list_images():
        if other.id == config.digest:
            continue
        name = Reference.parse(other.names[0]).familiar if other.names else str(other.id)
        for diff_id in set(map(str, store.read_image(other).diff_ids)) & users.keys():
            users[diff_id].append(name)
    return [
        Struct("image.Layer", layer | {"SharedWith": Slice(sorted(users[layer["DiffID"]]))})
        for layer in layers
    ]


# ---- containers ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LastRun:
    """The run of a container that goes on or was the last."""

    pid: int  # of its first process; 0 if it has ended
    command: str
    started: str
    finished: str = ""
    exit_status: int | None = None


def inspect_container(
    container: Container, mounted: Status | None, run: LastRun | None = None
) -> Struct:
    """Return the details of a container, of its mount and its last run, if there are any."""
    state = _state(mounted, run)
    fields = {
        "Id": mounted.record.id if mounted else "",
        "Created": container.created,
        "Name": container.name,
        "Image": str(container.image.id),
        "ImageName": container.image.name,
        "Source": container.image.source,
        "State": state,
        "Upper": str(container.upper),
        "Root": str(container.path.parent.parent),
    }
    return Struct("container.InspectResponse", fields, {"ID": "Id"})


def inspect_mount(mounted: Status) -> Struct:
    """Return the details of a mount that belongs to no container of the store."""
    record = mounted.record
    fields = {
        "Id": record.id,
        "Created": record.created,
        "Name": record.container,
        "Image": "",
        "ImageName": record.image,
        "Source": record.source,
        "State": _state(mounted),
        "Upper": record.upper,
        "Root": record.root,
    }
    return Struct("container.InspectResponse", fields, {"ID": "Id"})


def _state(mounted: Status | None, run: LastRun | None = None) -> Struct:
    record = mounted.record if mounted else None
    status = mounted.status if mounted else "stopped" if run is None else "exited"
    pid = record.pid if record else 0
    if run is not None and run.pid:
        status, pid = "running", run.pid
    fields = {
        "Status": status,
        "Running": status.partition(":")[0] in ("live", "detached", "running"),
        "Pid": pid,
        "Mode": mounted.mode if mounted else "",
        "Mountpoint": record.mountpoint if record else "",
        "Command": run.command if run else "",
        "ExitCode": (run.exit_status or 0) if run else 0,
        "StartedAt": (run.started if run else "") or _NO_TIME,
        "FinishedAt": (run.finished if run else "") or _NO_TIME,
    }
    return Struct("container.State", fields, pointer=True)
