"""The shape of the program, as rules that fail when broken.

``ORDER`` and ``FOLDERS`` are the lists of docs/architecture.md: what stands lower may use what
stands above, never the other way round. A new module is put into its list first.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]
PACKAGE = PROJECT / "src" / "unionmount"
CSRC = PROJECT / "csrc"

# The packages, lowest first: a package imports those before it.
ORDER = (
    "version",
    "errors",
    "system",
    "gotemplate",
    "formats",
    "core",
    "images",
    "registry",
    "trust",
    "engine",
    "store",
    "sources",
    "mounting",
    "transfer",
    "browse",
    "extract",
    "screen",
    "runtime",
    "committing",
    "squash",
    "api",
    "cli",
    "start",
    "__main__",
)

# The folders of the core, lowest first: a folder uses those before it.
FOLDERS = (
    "base",
    "system",
    "marks",
    "tar",
    "index",
    "layer",
    "tree",
    "upper",
    "search",
    "uring",
    "fastpath",
    "router",
)
# The headers that other folders may include: all of the lowest folders, FOLDER/FOLDER.h, and these.
ALL_PUBLIC = {"base", "system", "marks"}
SECOND_HEADERS = {
    "index/builder.h",
    "index/format.h",
    "tar/write.h",
    "tree/scan.h",
    "tree/summary.h",
    "tree/unstacked.h",
    "uring/protocol.h",
}


def module_name(path: Path) -> str:
    """The package in ORDER that a file belongs to, or the module."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported_modules(path: Path) -> Iterator[str]:
    """Everything that a file imports, wherever in the file, as full dotted names."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> set[str]:
    """The packages of this project that a file imports."""
    dotted = (name.split(".") for name in imported_modules(path))
    return {parts[1] for parts in dotted if parts[0] == "unionmount" and len(parts) > 1}


def literals(path: Path) -> Iterator[str | bytes]:
    """String constants of a Python file, without docstrings."""
    tree = ast.parse(path.read_bytes())
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or id(node) in documentation:
            continue
        if isinstance(node.value, str | bytes):
            yield node.value


def without_comments(source: str) -> str:
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", source, flags=re.DOTALL)


def c_files() -> list[Path]:
    return sorted([*CSRC.rglob("*.c"), *CSRC.rglob("*.h")])


def in_core(path: Path) -> str:
    """The path of a file below csrc."""
    return str(path.relative_to(CSRC))


def test_the_sources_are_found() -> None:
    assert len(modules()) > 5
    assert len(c_files()) > 5


def test_every_module_has_its_place() -> None:
    unknown = {module_name(path) for path in modules()} - set(ORDER)
    assert not unknown, f"not in ORDER: {sorted(unknown)}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_packages_import_what_is_below_them(path: Path) -> None:
    own = module_name(path)
    allowed = {own, *ORDER[: ORDER.index(own)]} | ({"_core"} if own == "core" else set())
    wrong = own_imports(path) - allowed
    assert not wrong, f"{path.name} imports {sorted(wrong)}, which stand above it"


def dotted(path: Path) -> str:
    """The name under which a file is imported."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_modules_import_each_other_in_no_circle() -> None:
    known = {dotted(path) for path in modules()}
    imports = {
        dotted(path): (known & set(imported_modules(path))) - {dotted(path)} for path in modules()
    }
    assert not circle_of(imports)


def class_places(path: Path) -> Iterator[tuple[str, str]]:
    """The classes of a file, without the underscore of private names, and where each stands."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ClassDef):
            yield node.name.lstrip("_"), f"{path.relative_to(PACKAGE)}:{node.lineno}"


def test_two_classes_never_share_a_name() -> None:
    places: dict[str, list[str]] = {}
    for path in modules():
        for name, place in class_places(path):
            places.setdefault(name, []).append(place)
    assert len(places) > 100
    assert not {name: found for name, found in places.items() if len(found) > 1}


LONGEST_FILE = 700  # lines
LONGEST_FUNCTION = 50  # lines, with its signature and docstring


def test_files_and_functions_are_short() -> None:
    long = [str(path) for path in modules() if path.read_bytes().count(b"\n") > LONGEST_FILE]
    for path in modules():
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                if node.end_lineno - node.lineno >= LONGEST_FUNCTION:
                    long.append(f"{path}: {node.name}")
    assert not long


def test_only_mounting_imports_pyfuse3() -> None:
    users = {
        str(path.relative_to(PACKAGE))
        for path in modules()
        if any(name.split(".")[0] == "pyfuse3" for name in imported_modules(path))
    }
    assert users <= {
        "mounting/read_operations.py",
        "mounting/write_operations.py",
        "mounting/fuse_mount.py",
        "mounting/python_server.py",
    }
    assert users, "nothing imports pyfuse3"


def test_only_the_screen_imports_textual() -> None:
    users = {
        module_name(path)
        for path in modules()
        if any(name.split(".")[0] == "textual" for name in imported_modules(path))
    }
    assert users <= {"screen"}


def test_only_the_api_imports_what_notebooks_need() -> None:
    """So no mount does, nor a command but ``browse``; and only the API itself imports the API."""
    wanted = {"asyncio", "sniffio", "fsspec", "unionmount.api"}
    users = {
        module_name(path)
        for path in modules()
        if wanted & {part for name in imported_modules(path) for part in beginnings(name)}
    }
    assert users == {"api", "screen"}  # the screen's library runs under asyncio


def beginnings(name: str) -> list[str]:
    """A dotted name, and all packages above it."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def test_the_command_line_starts_without_heavy_modules() -> None:
    code = "import sys, unionmount.cli; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "unionmount.cli" in loaded
    heavy = {"pyfuse3", "trio", "unionmount._core", "isal", "backports.zstd", "httpx2", "rich"}
    heavy |= {"textual", "asyncio", "sniffio", "fsspec", "unionmount.api"}
    heavy |= {"textual", "cryptography", "yaml"}
    assert not heavy & set(loaded)


def test_only_the_command_line_prints() -> None:
    for path in modules():
        if module_name(path) != "cli":
            names = {
                ast.unparse(node)
                for node in ast.walk(ast.parse(path.read_bytes()))
                if isinstance(node, ast.Name | ast.Attribute)
            }
            assert not names & {"print", "sys.stdout", "sys.stderr"}, path.name


def test_python_does_not_spell_whiteouts() -> None:
    for path in modules():
        for literal in literals(path):
            text = literal if isinstance(literal, str) else literal.decode("latin-1")
            assert ".wh." not in text, f"{path.name}: {text!r}"


def test_one_file_of_the_core_spells_whiteouts() -> None:
    spellers = {
        in_core(path)
        for path in c_files()
        if ".wh." in without_comments(path.read_text(encoding="utf-8"))
    }
    assert spellers == {"marks/whiteout.c"}


# System calls that resolve a path: which files may make them. Names that they are given are single
# components; tests/c/test_open_beneath.c shows that no symlink is followed and no mount is crossed.
OPENERS = {
    r"\bSYS_open\w*|\bopen(?:at)?\((?!\"/dev/fuse\")|\bopendir\(|\bfopen\(|\bcreat\(": {
        "system/open_beneath.c"
    },
    r"/proc/|\bAT_FDCWD\b": {"system/open_beneath.c"},
    r"\bRESOLVE_\w+": {"system/open_beneath.c"},
    r"\b(?:SYS_)?l?(?:get|set|list|remove)xattr(?:at)?\(|\bSYS_\w*xattrat\b": {"system/xattr_at.c"},
    r"\b(?:chmod|fchmodat|lchown|chown|fchownat|utimensat|utimes|truncate)\(|\bSYS_fchmodat": {
        "upper/reach.c"
    },
    r"\b(?:l?stat|fstatat|access|faccessat|readlink|realpath|chdir)\(": {
        "system/open_beneath.c",
        "upper/reach.c",
    },
    r"\bstatx\(": {"fastpath/statx.c", "layer/live_reach.c", "layer/live_table.c"},
}


@pytest.mark.parametrize("pattern", OPENERS)
def test_the_core_opens_by_path_in_one_place(pattern: str) -> None:
    users = {
        in_core(path)
        for path in c_files()
        if re.search(pattern, without_comments(path.read_text(encoding="utf-8")))
    }
    assert users == OPENERS[pattern]


@pytest.mark.parametrize("path", c_files(), ids=in_core)
def test_no_path_of_two_components_is_built(path: Path) -> None:
    source = without_comments(path.read_text(encoding="utf-8"))
    built = re.findall(r'printf\([^;]*?"[^";]*%s?/%s[^;]*;', source)
    allowed = {"upper/shown_names.c"}  # asprintf of a path that um_open_beneath walks
    assert not built or in_core(path) in allowed


def included_headers(path: Path) -> list[str]:
    return re.findall(r'^#include "([^"]+)"', path.read_text(encoding="utf-8"), re.MULTILINE)


def folder_of(path: Path | str) -> str:
    """The folder of csrc that a file, or a header as it is included, stands in."""
    relative = path.relative_to(CSRC) if isinstance(path, Path) else Path(path)
    return relative.parts[0]


def is_public(header: str) -> bool:
    folder = folder_of(header)
    return folder in ALL_PUBLIC or header in {*SECOND_HEADERS, f"{folder}/{folder}.h"}


@pytest.mark.parametrize("path", c_files(), ids=in_core)
def test_folders_include_what_is_below_them(path: Path) -> None:
    own = folder_of(path)
    allowed = set(FOLDERS[: FOLDERS.index(own) + 1])
    included = included_headers(path)
    assert {folder_of(header) for header in included} <= allowed
    private = [name for name in included if folder_of(name) != own and not is_public(name)]
    assert not private, f"{path.name} includes {private} of other folders"


@pytest.mark.parametrize("path", sorted(CSRC.rglob("*.c")), ids=in_core)
def test_a_file_includes_its_own_header_first(path: Path) -> None:
    own = f"{folder_of(path)}/{path.stem}.h"
    if (CSRC / own).exists():
        assert included_headers(path)[0] == own


@dataclass(frozen=True, slots=True)
class Symbols:
    """What the object file of a C file defines, can change, and takes from others."""

    defined: frozenset[str]
    mutable: frozenset[str]
    used: frozenset[str]


def symbols_of(path: Path, scratch: Path) -> Symbols:
    built = scratch / "built.o"
    # Without -fPIC, constant tables of pointers are read-only and not among the symbols below.
    compile_it = ["cc", "-std=c17", "-D_GNU_SOURCE", "-O1", "-fno-pic", "-fno-pie", f"-I{CSRC}"]
    subprocess.run([*compile_it, "-c", str(path), "-o", str(built)], check=True)
    listed = subprocess.run(
        ["nm", "--format=posix", str(built)], check=True, capture_output=True, text=True
    ).stdout
    kinds = [line.split()[:2] for line in listed.splitlines()]
    return Symbols(
        frozenset(name for name, kind in kinds if kind in "TRDB"),
        frozenset(name for name, kind in kinds if kind in "bBdDC"),
        frozenset(name for name, kind in kinds if kind == "U"),
    )


@pytest.fixture(scope="module")
def symbols(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Symbols]:
    """Of every C file of the core."""
    scratch = tmp_path_factory.mktemp("objects")
    return {path: symbols_of(path, scratch) for path in sorted(CSRC.rglob("*.c"))}


@pytest.mark.needs("cc", "nm")
def test_the_core_has_no_mutable_state(symbols: dict[Path, Symbols]) -> None:
    assert len(symbols) > 50
    assert not {in_core(path): found.mutable for path, found in symbols.items() if found.mutable}


@pytest.mark.needs("cc", "nm")
def test_functions_of_the_upper_begin_with_its_name(symbols: dict[Path, Symbols]) -> None:
    defined = {
        name
        for path, found in symbols.items()
        if folder_of(path) == "upper"
        for name in found.defined
    }
    assert len(defined) > 100
    assert {name for name in defined if not name.startswith("um_upper_")} == set()


def circle_of(uses: Mapping[Any, set[Any]]) -> list[str]:
    """What uses each other in a circle; nothing where there is no circle."""
    try:
        TopologicalSorter(uses).prepare()
    except CycleError as error:
        return [str(one) for one in error.args[1]]
    return []


@pytest.mark.needs("cc", "nm")
@pytest.mark.parametrize("folder", FOLDERS)
def test_c_tests_link_what_a_folder_includes(folder: str) -> None:
    """A list that is too long would hide that a folder needs one that it does not include."""
    makefile = (PROJECT / "tests/c/Makefile").read_text(encoding="utf-8")
    found = re.search(rf"^USES_{folder} :=(.*)$", makefile, re.MULTILINE)
    assert found is not None
    sources = [*(CSRC / folder).glob("*.[ch]")]
    included = {
        name
        for path in sources
        for name in re.findall(r'#include "(\w+)/', path.read_text(encoding="utf-8"))
    }
    assert set(found[1].split()) == included - {folder}


@pytest.mark.parametrize("folder", FOLDERS)
def test_files_of_a_folder_call_each_other_in_no_circle(
    folder: str, symbols: dict[Path, Symbols]
) -> None:
    own = {path: found for path, found in symbols.items() if folder_of(path) == folder}
    calls = {
        path: {other for other, theirs in own.items() if found.used & theirs.defined}
        for path, found in own.items()
    }
    assert circle_of(calls) == []


_INLINE = re.compile(r"^static inline [^;{]*?\{(.*?)^\}", re.DOTALL | re.MULTILINE)


@pytest.mark.needs("cc", "nm")
@pytest.mark.parametrize("folder", FOLDERS)
def test_headers_call_no_file_of_their_folder_but_their_own(
    folder: str, symbols: dict[Path, Symbols]
) -> None:
    """An inline function that does makes a circle with each file that includes its header."""
    for header in (CSRC / folder).glob("*.h"):
        bodies = "\n".join(_INLINE.findall(header.read_text(encoding="utf-8")))
        called = set(re.findall(r"\b(um_\w+)\(", bodies))
        others = {
            path.name: called & found.defined
            for path, found in symbols.items()
            if path.parent == header.parent and path.stem != header.stem
        }
        assert not {name: names for name, names in others.items() if names}, header.name
