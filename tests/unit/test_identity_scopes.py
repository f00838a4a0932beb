"""The table of scopes against the services that there are."""

from __future__ import annotations

import importlib
import pkgutil

import drawdown.v1
from drawdown_server.identity.scopes import SCOPES, Scope


def methods() -> set[str]:
    """Every method of every service of the package, from its descriptors."""
    modules = [
        importlib.import_module(f"drawdown.v1.{module.name}")
        for module in pkgutil.iter_modules(drawdown.v1.__path__)
        if module.name.endswith("_pb2")
    ]
    services = [service for module in modules for service in module.DESCRIPTOR.services_by_name.values()]
    return {f"{service.full_name}/{method.name}" for service in services for method in service.methods}


def test_every_method_of_every_service_needs_a_scope_and_no_other_is_named() -> None:
    assert len(methods()) >= 29
    assert set(SCOPES) == methods()


def test_a_scope_that_only_reads_opens_no_method_that_changes_something() -> None:
    reading = {method for method, scope in SCOPES.items() if scope is Scope.READ}
    names = {method.partition("/")[2] for method in reading} - {"CreateWalletToken"}  # which stores nothing
    assert all(name.startswith(("Get", "List")) for name in names)


def test_what_makes_money_needs_the_scope_of_funds() -> None:
    funds = {method.partition("/")[2] for method, scope in SCOPES.items() if scope is Scope.FUNDS}
    assert funds == {"CreateGrant", "VoidGrant", "SetGrantExpiry", "SetOverdraftLimit"}
