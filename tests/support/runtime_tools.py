"""The validator of bundles that OCI offers, ``oci-runtime-tool validate``, built here."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).parents[1] / "oracle" / "bundle"
_PATIENCE = 300


class Validator:
    """The program, and the schema of the specification, which is in a Go module as well."""

    def __init__(self, directory: Path) -> None:
        self._program = directory / "validate"
        self._call("go", "build", "-o", str(self._program), ".")
        module = "github.com/opencontainers/runtime-spec"
        self._schema = Path(self._call("go", "list", "-m", "-f", "{{.Dir}}", module), "schema")

    def complaints(self, bundle: Path) -> list[str]:
        """Return what the program says about a bundle."""
        done = subprocess.run(
            [str(self._program), str(self._schema), str(bundle)],
            capture_output=True,
            text=True,
            check=True,
            timeout=_PATIENCE,
        )
        return done.stdout.splitlines()

    @staticmethod
    def _call(*words: str) -> str:
        # Go keeps what it compiled and fetched where it always does, not in the cache of the run
        cache = os.environ.get("GOCACHE", str(Path.home() / ".cache" / "go-build"))
        environment = os.environ | {"GOCACHE": cache, "GOFLAGS": "-mod=readonly"}
        done = subprocess.run(
            words, cwd=_SOURCE, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()
