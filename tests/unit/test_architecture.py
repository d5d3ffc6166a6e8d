"""The shape of the program, as rules that fail when broken.

``ORDER`` and ``HEADERS`` are the lists of docs/architecture.md: what stands lower may use what
stands above, never the other way round. A new module is put into its list first.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PACKAGE = PROJECT / "src" / "unionmount"
CSRC = PROJECT / "csrc"

ORDER = (
    "errors",
    "closing",
    "removal",
    "access",
    "reference",
    "trust",
    "waiting",
    "files",
    "template",
    "image",
    "registry",
    "history",
    "core",
    "namespace",
    "paths",
    "search",
    "compression",
    "tarwriter",
    "layer",
    "catalogue",
    "leases",
    "storedir",
    "store",
    "containers",
    "needs",
    "usage",
    "garbage",
    "sources",
    "pull",
    "checking",
    "upper",
    "mountinfo",
    "options",
    "operations",
    "writing",
    "fusemount",
    "mounts",
    "daemon",
    "stats",
    "server",
    "save",
    "changes",
    "target",
    "comparison",
    "provenance",
    "instructions",
    "commit",
    "transfer",
    "download",
    "upload",
    "copying",
    "inspection",
    "api",
    "cli",
    "__main__",
)

HEADERS = (
    ("base.h",),
    ("match.h",),
    ("keyed_hash.h",),
    ("read_at.h",),
    ("budget.h",),
    ("spool.h",),
    ("tar_number.h",),
    ("tar_entry.h",),
    ("tar_header.h",),
    ("tar_sparse.h",),
    ("tar_pax.h",),
    ("tar.h",),
    ("override_stat.h",),
    ("xattr_name.h",),
    ("mark_trust.h",),
    ("capability.h",),
    ("open_beneath.h", "refusals.h"),
    ("xattr_at.h",),
    ("whiteout.h",),
    ("index_format.h",),
    ("index_build.h", "index_tables.h"),
    ("index.h",),
    ("fd_cache.h",),
    ("dirlayer.h", "dirlayer_private.h", "layer.h"),
    ("tree.h", "tree_private.h"),
    ("layer_trees.h",),
    ("summary.h",),
    ("posix_acl.h",),
    ("upper.h", "upper_private.h", "copy_data.h"),
    ("held.h",),
    ("fastpath.h", "fastpath_private.h"),
    ("router.h", "router_private.h"),
)
RANK = {header: rank for rank, headers in enumerate(HEADERS) for header in headers}


def module_name(path: Path) -> str:
    """The noun in ORDER that a file belongs to: a package counts as one."""
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
    """The modules of this package that a file imports, as nouns."""
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
    return sorted([*CSRC.glob("*.c"), *CSRC.glob("*.h")])


def test_the_sources_are_found() -> None:
    assert len(modules()) > 5
    assert len(c_files()) > 5


def test_every_module_has_its_place() -> None:
    unknown = {module_name(path) for path in modules()} - set(ORDER)
    assert not unknown, f"not in ORDER: {sorted(unknown)}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_to_the_top(path: Path) -> None:
    own = module_name(path)
    allowed = {own, *ORDER[: ORDER.index(own)]} | ({"_core"} if own == "core" else set())
    wrong = own_imports(path) - allowed
    assert not wrong, f"{path.name} imports {sorted(wrong)}, which stand below it"


def test_only_mounting_imports_pyfuse3() -> None:
    users = {
        module_name(path)
        for path in modules()
        if any(name.split(".")[0] == "pyfuse3" for name in imported_modules(path))
    }
    assert users <= {"operations", "writing", "fusemount", "server"}
    assert users, "nothing imports pyfuse3"


def test_the_command_line_starts_without_heavy_modules() -> None:
    code = "import sys, unionmount.cli; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "unionmount.cli" in loaded
    heavy = {"pyfuse3", "trio", "unionmount._core", "isal", "backports.zstd", "httpx2", "rich"}
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
        path.name
        for path in c_files()
        if ".wh." in without_comments(path.read_text(encoding="utf-8"))
    }
    assert spellers == {"whiteout.c"}


# System calls that resolve a path: which files may make them. Names that they are given are single
# components; tests/c/test_open_beneath.c shows that no symlink is followed and no mount is crossed.
OPENERS = {
    r"\bSYS_open\w*|\bopen(?:at)?\((?!\"/dev/fuse\")|\bopendir\(|\bfopen\(|\bcreat\(": {
        "open_beneath.c"
    },
    r"/proc/|\bAT_FDCWD\b": {"open_beneath.c"},
    r"\bRESOLVE_\w+": {"open_beneath.c"},
    r"\b(?:SYS_)?l?(?:get|set|list|remove)xattr(?:at)?\(|\bSYS_\w*xattrat\b": {"xattr_at.c"},
    r"\b(?:chmod|fchmodat|lchown|chown|fchownat|utimensat|utimes|truncate)\(|\bSYS_fchmodat": {
        "upper_disk.c"
    },
    r"\b(?:l?stat|fstatat|access|faccessat|readlink|realpath|chdir)\(": {
        "open_beneath.c",
        "upper_disk.c",
    },
    r"\bstatx\(": {"dirlayer_disk.c", "dirlayer_table.c", "fastpath_statx.c"},
}


@pytest.mark.parametrize("pattern", OPENERS)
def test_the_core_opens_by_path_in_one_place(pattern: str) -> None:
    users = {
        path.name
        for path in c_files()
        if re.search(pattern, without_comments(path.read_text(encoding="utf-8")))
    }
    assert users == OPENERS[pattern]


@pytest.mark.parametrize("path", c_files(), ids=lambda path: path.name)
def test_no_path_of_two_components_is_built(path: Path) -> None:
    source = without_comments(path.read_text(encoding="utf-8"))
    built = re.findall(r'printf\([^;]*?"[^";]*%s?/%s[^;]*;', source)
    allowed = {"upper_group.c"}  # asprintf of a path that um_open_beneath walks
    assert not built or path.name in allowed


def included_headers(path: Path) -> list[str]:
    return re.findall(r'^#include "([^"]+)"', path.read_text(encoding="utf-8"), re.MULTILINE)


def own_header(path: Path) -> str:
    """The header of the module that a file belongs to; a file includes that one first."""
    own = path.with_suffix(".h").name
    return own if own in RANK else included_headers(path)[0]


@pytest.mark.parametrize("path", c_files(), ids=lambda path: path.name)
def test_headers_are_included_upwards(path: Path) -> None:
    included = included_headers(path)
    assert set(included) <= set(RANK), f"not in HEADERS: {set(included) - set(RANK)}"
    lower = [header for header in included if RANK[header] > RANK[own_header(path)]]
    assert not lower, f"{path.name} includes {lower}"


@pytest.mark.needs("cc", "nm")
@pytest.mark.parametrize("path", sorted(CSRC.glob("*.c")), ids=lambda path: path.name)
def test_the_core_has_no_mutable_state(path: Path, tmp_path: Path) -> None:
    built = tmp_path / "built.o"
    # Without -fPIC, constant tables of pointers are read-only and not among the symbols below.
    compile_it = ["cc", "-std=c17", "-D_GNU_SOURCE", "-O1", "-fno-pic", "-fno-pie", "-c"]
    subprocess.run([*compile_it, str(path), "-o", str(built)], check=True)
    symbols = subprocess.run(
        ["nm", "--format=posix", str(built)], check=True, capture_output=True, text=True
    ).stdout
    mutable = [line for line in symbols.splitlines() if re.match(r"\S+ [bBdDC] ", line)]
    assert not mutable
