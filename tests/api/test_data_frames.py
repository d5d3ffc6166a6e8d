"""pandas and pyarrow read tables out of an image through fsspec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest
from support.archives import Layer, docker_archive

import unionmount

ROWS = [{"name": f"row{number}", "number": number} for number in range(1000)]


@pytest.fixture
def url(place: Path) -> str:
    """The beginning of URLs of an image with tables in two layers."""
    lines = [f"{row['name']},{row['number']}\n" for row in ROWS]
    one = Layer().directory("data").file("data/1.csv", "".join(["name,number\n", *lines]).encode())
    two = Layer().file("data/2.csv", "".join(["name,number\n", *lines[:3]]).encode())
    docker_archive(place / "tables.tar", [one, two])
    return "unionmount://./tables.tar!"


@pytest.mark.needs("pandas")
def test_pandas_reads_a_table(url: str) -> None:
    import pandas as pd  # noqa: PLC0415 - it may be missing

    assert pd.read_csv(f"{url}/data/1.csv").to_dict("records") == ROWS
    with fsspec.open_files(f"{url}/data/*.csv") as files:
        assert [len(pd.read_csv(file)) for file in files] == [1000, 3]
    options = {"image": "./tables.tar", "layer": 0}
    with pytest.raises(FileNotFoundError, match=r"'/data/2\.csv'"):
        pd.read_csv("unionmount:///data/2.csv", storage_options=options)


@pytest.mark.needs("pyarrow")
def test_pyarrow_reads_a_data_set(url: str, place: Path) -> None:
    import pyarrow.dataset as ds  # noqa: PLC0415 - it may be missing
    import pyarrow.parquet as pq  # noqa: PLC0415

    fs, path = fsspec.url_to_fs(f"{url}/data")
    table = ds.dataset(path, filesystem=fs, format="csv").to_table()
    assert sorted(table.to_pylist(), key=_number) == sorted([*ROWS, *ROWS[:3]], key=_number)
    pq.write_table(table, place / "table.parquet")
    layer = Layer().file("table.parquet", (place / "table.parquet").read_bytes())
    docker_archive(place / "parquet.tar", [layer])
    with (
        unionmount.open_image("./parquet.tar") as image,
        image.path("/table.parquet").open("rb") as file,
    ):
        assert pq.read_table(file).equals(table)
    read = pq.read_table(
        "/table.parquet", filesystem=fsspec.filesystem("unionmount", image="./parquet.tar")
    )
    assert read.equals(table)


def _number(row: dict[str, Any]) -> int:
    number: int = row["number"]
    return number
