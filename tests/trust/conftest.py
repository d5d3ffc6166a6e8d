"""Fixtures of the tests of trust: the oracle, keys, and registries with signed images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.policy_oracle import PolicyOracle, build_policy_oracle
from support.signing import GpgKeys, SigstoreKeys


@pytest.fixture(scope="session")
def policy_oracle_program(
    tmp_path_factory: pytest.TempPathFactory, require: Callable[..., None]
) -> Path:
    """The program of the oracle."""
    require("go", "gpgme")
    return build_policy_oracle(tmp_path_factory.mktemp("policy-oracle"))


@pytest.fixture(scope="session")
def oracle(policy_oracle_program: Path) -> Iterator[PolicyOracle]:
    """containers/image, which is asked about policies."""
    with PolicyOracle(policy_oracle_program) as running:
        yield running


@pytest.fixture(scope="session")
def gpg_keys(
    tmp_path_factory: pytest.TempPathFactory, require: Callable[..., None]
) -> Iterator[GpgKeys]:
    """Keys of GPG in a home of their own, whose agent ends with the run."""
    require("gpg", "gpgconf")
    with GpgKeys(tmp_path_factory.mktemp("gpg")) as keys:
        yield keys


@pytest.fixture(scope="session")
def sigstore_keys(tmp_path_factory: pytest.TempPathFactory, oracle: PolicyOracle) -> SigstoreKeys:
    """Keys of sigstore, made by containers/image."""
    return SigstoreKeys(tmp_path_factory.mktemp("sigstore"), oracle)
