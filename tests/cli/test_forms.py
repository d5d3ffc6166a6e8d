"""``inspect``, ``ps`` and ``diff`` of what is mounted, in all their forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.mounting import CommandLine

from unionmount.cli import main

pytestmark = [pytest.mark.needs("fuse"), pytest.mark.quick]


class Forms:
    """Commands that mount nothing, in this process: it is the same code, and quicker."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def shown(self, *arguments: str | Path, status: int = 0) -> str:
        assert main([str(one) for one in arguments]) == status
        captured = self._capsys.readouterr()
        self.error = captured.err
        return captured.out

    def inspected(self, *arguments: str | Path) -> Any:
        (found,) = json.loads(self.shown("inspect", *arguments))
        return found


@pytest.fixture
def forms(capsys: pytest.CaptureFixture[str]) -> Forms:
    return Forms(capsys)


def test_a_container_in_all_forms(
    cli: CommandLine, forms: Forms, archive: Path, tmp_path: Path
) -> None:
    where = tmp_path / "where"
    where.mkdir()
    cli.run("mount", "--name", "shelf", archive, where)
    (where / "new").write_bytes(b"12345")
    (record,) = cli.records()

    # inspect: by its name, its mount point, the ID of its mount
    found = forms.inspected("shelf")
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
        "Command": "",
        "ExitCode": 0,
        "StartedAt": "0001-01-01T00:00:00Z",
        "FinishedAt": "0001-01-01T00:00:00Z",
    }
    assert (Path(found["Upper"]) / "new").read_bytes() == b"12345"
    assert forms.inspected(where) == forms.inspected(record["id"]) == found
    assert forms.inspected("container:shelf", "--type", "container") == found
    form = "{{.Name}} {{.State.Status}} {{if .State.Running}}{{.State.Pid}}{{end}}"
    assert forms.shown("inspect", "-f", form, "shelf") == f"shelf live {record['pid']}\n"
    image = forms.inspected(found["Image"])
    assert image["Id"] == found["Image"]

    # ps
    form = "{{.Container}}|{{.ID}}|{{.Mountpoint}}|{{.Mode}}|{{.Status}}"
    assert forms.shown("ps", "--format", form) == f"shelf|{record['id']}|{where}|rw|live\n"
    head, line = forms.shown("ps", "--format", r"table {{.ID}}\t{{.Names}}").splitlines()
    assert (head.split(), line.split()) == (["ID", "NAMES"], [record["id"], "shelf"])
    (one,) = map(json.loads, forms.shown("ps", "--format", "jsonl").splitlines())
    assert one == record

    # diff
    assert forms.shown("diff", "--format", "{{.Kind}} {{.Path}} {{.Size}}", "shelf") == "A /new 5\n"
    listed = json.loads(forms.shown("diff", "--format", "json", "shelf"))
    lines = forms.shown("diff", "--format", "jsonl", "shelf").splitlines()
    assert [json.loads(text) for text in lines] == listed
    forms.shown("diff", "--format", "xml", "shelf", status=2)

    cli.run("umount", where)
    stopped = forms.inspected("shelf")
    assert stopped["State"]["Status"] == "stopped"
    assert stopped["State"]["Running"] is False
    assert stopped["Id"] == ""


def test_a_mount_without_a_container(
    cli: CommandLine, forms: Forms, archive: Path, tmp_path: Path
) -> None:
    where = tmp_path / "where"
    where.mkdir()
    cli.run("mount", "--ro", archive, where)
    found = forms.inspected(where)
    assert (found["Name"], found["State"]["Mode"]) == ("", "ro")
    assert found["Source"] == str(archive)
    cli.run("umount", where)


def test_what_is_neither(forms: Forms) -> None:
    for word in (["container:none"], ["--type", "container", "none"]):
        assert forms.shown("inspect", *word, status=1) == "[]\n"
        assert "no such container or mount" in forms.error
