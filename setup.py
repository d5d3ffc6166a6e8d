"""The part of the build that pyproject.toml can't say: the C core, and what it needs.

pip asks for our metadata before it builds any dependency, and pyfuse3 (which ships no wheel) fails
with a message of its own where libfuse3 is missing. So the check stands in ``dist_info``: it is the
first thing of ours that runs, and says everything that is missing in one message.
"""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.command.dist_info import dist_info
from setuptools.errors import SetupError


def missing_tools() -> dict[str, str]:
    """What the build can't find, each with the Debian package that has it."""
    missing = {}
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if not any(map(shutil.which, (compiler, "gcc", "cc", "clang"))):
        missing["a C compiler"] = "gcc libc6-dev"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        missing["Python.h"] = "python3-dev"
    if not shutil.which("pkg-config"):
        missing["pkg-config"] = "pkg-config"
        missing["libfuse3"] = "libfuse3-dev"
    elif subprocess.run(["pkg-config", "--exists", "fuse3"], check=False).returncode:
        missing["libfuse3"] = "libfuse3-dev"
    return missing


def check_tools() -> None:
    """Fail with one message that names everything that is missing."""
    missing = missing_tools()
    if missing:
        raise SetupError(
            f"unionmount can't be built here, not found: {', '.join(missing)}.\n"
            "pyfuse3 ships no wheel: it and unionmount's C core are compiled when installing.\n"
            f"Debian, Ubuntu:  apt-get install fuse3 {' '.join(missing.values())}\n"
            "Fedora:          dnf install fuse3 fuse3-devel gcc pkgconf-pkg-config python3-devel"
        )


class CheckedDistInfo(dist_info):
    """Metadata of a wheel, where a wheel can be built."""

    def run(self) -> None:
        """Check, then do what setuptools does."""
        check_tools()
        super().run()


class CheckedBuildExt(build_ext):
    """The C core, where it can be compiled."""

    def run(self) -> None:
        """Check, then do what setuptools does."""
        check_tools()
        super().run()


setup(
    cffi_modules=["csrc/build_core.py:ffibuilder"],
    cmdclass={"dist_info": CheckedDistInfo, "build_ext": CheckedBuildExt},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
