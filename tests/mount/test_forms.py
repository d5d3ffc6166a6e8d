"""``inspect``, ``ps`` and ``diff`` of what is mounted, in all their forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mounting import CommandLine

pytestmark = pytest.mark.needs("fuse")


def shown(cli: CommandLine, *arguments: str | Path) -> str:
    return str(cli.run(*arguments).stdout)


def inspected(cli: CommandLine, *arguments: str | Path) -> Any:
    (found,) = json.loads(shown(cli, "inspect", *arguments))
    return found


def test_a_container_in_all_forms(cli: CommandLine, archive: Path, tmp_path: Path) -> None:
    where = tmp_path / "where"
    where.mkdir()
    cli.run("mount", "--name", "shelf", archive, where)
    (where / "new").write_bytes(b"12345")
    (record,) = cli.records()

    # inspect: by its name, its mount point, the ID of its mount
    found = inspected(cli, "shelf")
    assert list(found) == [
        *("Id", "Created", "Name", "Image", "ImageName", "Source", "State", "Upper", "Root")
    ]
    assert found["Id"] == record["id"]
    assert found["State"] == {
        "Status": "live",
        "Running": True,
        "Pid": record["pid"],
        "Mode": "rw",
        "Mountpoint": str(where),
    }
    assert (Path(found["Upper"]) / "new").read_bytes() == b"12345"
    assert inspected(cli, where) == inspected(cli, record["id"]) == found
    assert inspected(cli, "container:shelf", "--type", "container") == found
    form = "{{.Name}} {{.State.Status}} {{if .State.Running}}{{.State.Pid}}{{end}}"
    assert shown(cli, "inspect", "-f", form, "shelf") == f"shelf live {record['pid']}\n"
    image = inspected(cli, found["Image"])
    assert image["Id"] == found["Image"]

    # ps
    form = "{{.Container}}|{{.ID}}|{{.Mountpoint}}|{{.Mode}}|{{.Status}}"
    assert shown(cli, "ps", "--format", form) == f"shelf|{record['id']}|{where}|rw|live\n"
    head, line = shown(cli, "ps", "--format", r"table {{.ID}}\t{{.Names}}").splitlines()
    assert (head.split(), line.split()) == (["ID", "NAMES"], [record["id"], "shelf"])
    (one,) = map(json.loads, shown(cli, "ps", "--format", "jsonl").splitlines())
    assert one == record

    # diff
    assert shown(cli, "diff", "--format", "{{.Kind}} {{.Path}} {{.Size}}", "shelf") == "A /new 5\n"
    listed = json.loads(shown(cli, "diff", "--format", "json", "shelf"))
    lines = shown(cli, "diff", "--format", "jsonl", "shelf").splitlines()
    assert [json.loads(text) for text in lines] == listed
    cli.run("diff", "--format", "xml", "shelf", status=2)

    cli.run("umount", where)
    stopped = inspected(cli, "shelf")
    assert stopped["State"]["Status"] == "stopped"
    assert stopped["State"]["Running"] is False
    assert stopped["Id"] == ""


def test_a_mount_without_a_container(cli: CommandLine, archive: Path, tmp_path: Path) -> None:
    where = tmp_path / "where"
    where.mkdir()
    cli.run("mount", "--ro", archive, where)
    found = inspected(cli, where)
    assert (found["Name"], found["State"]["Mode"]) == ("", "ro")
    assert found["Source"] == str(archive)
    cli.run("umount", where)


def test_what_is_neither(cli: CommandLine) -> None:
    for word in (["container:none"], ["--type", "container", "none"]):
        done = cli.run("inspect", *word, status=1)
        assert done.stdout == "[]\n"
        assert "no such container or mount" in done.stderr
