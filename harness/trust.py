"""What a recipe may do unasked. Recipes and run folders come from others: reading data and computing is free; to send
anything to another machine, or to compute there, takes the user's permission.

The permission is a flag of the command (``--allow HOST``), a value that the user types (``--set``), or the user's own
configuration, ``~/.config/rvosbench/config.yaml``::

    allow:
      hosts: [mlflow.my-lab.org, 10.0.0.3]
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.recipes import Recipe, describe
from rvosbench.harness.text import one_line
from rvosbench.harness.yaml_files import read_yaml

_LOCAL_CLUSTERS = ("auto", "local")


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Trust:
    """What the user allows recipes to do."""

    hosts: tuple[str, ...] = ()
    """Machines that a recipe may send to, join or be served by; this machine is always one."""

    def with_more(self, hosts: Sequence[str]) -> Trust:
        """This and what flags allow."""
        return Trust((*self.hosts, *(host_of(host) or host for host in hosts)))

    def require(self, recipe: Recipe, overrides: Sequence[str] = ()) -> None:
        """Refuses a recipe that wants more than is allowed.

        Args:
            overrides: ``key=value`` texts that the user typed; what they set is allowed.

        Raises:
            PrerequisiteError: one sentence says what the recipe wants and how to allow it.
        """
        typed = [override.partition("=")[0] for override in overrides]
        for want in _wants(recipe):
            if any(_inside(want.key, key) or _inside(key, want.key) for key in typed):
                continue
            if want.host not in self.hosts:
                raise PrerequisiteError(
                    f"The recipe's {want.key} {want.what} {one_line(want.host)}, which is not this machine.",
                    f"If you trust it, add --allow {one_line(want.host)}.",
                )


@dataclass(frozen=True)
class _Want:
    key: str
    what: str
    host: str


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class _Configuration:
    allow: Trust = Trust()


_CONFIGURATION = TypeAdapter(_Configuration)


def user_trust() -> Trust:
    """What the user's own configuration allows; nothing without one.

    Raises:
        PrerequisiteError: the file is no such configuration.
    """
    path = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "rvosbench" / "config.yaml"
    if not path.is_file():
        return Trust()
    try:
        return _CONFIGURATION.validate_python(read_yaml(path) or {}).allow
    except ValidationError as error:
        raise PrerequisiteError(f"{path}: {describe(error)}.", "Correct your configuration.") from error


def is_local(host: str) -> bool:
    """Whether a host is this machine: ``localhost`` or one of its addresses. Names are not looked up."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if address.is_loopback:
        return True
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def host_of(address: str) -> str:
    """The host of a URL or of ``host:port``, without a password; "" where there is none."""
    try:
        return urlsplit(address if "//" in address else f"//{address}").hostname or ""
    except ValueError:
        return address


def _wants(recipe: Recipe) -> Iterator[_Want]:
    for endpoint in recipe.serving.endpoints:
        yield from _remote("serving.endpoints", "send data to", host_of(endpoint))
    address = recipe.executor.address
    if address is not None and address not in _LOCAL_CLUSTERS:
        yield from _remote("executor.address", "runs code on", host_of(address))
    if recipe.tracking.enabled and recipe.tracking.uri:
        yield from _remote("tracking.uri", "sends the run to", host_of(recipe.tracking.uri))


def _remote(key: str, what: str, host: str) -> Iterator[_Want]:
    if host and not is_local(host):
        yield _Want(key, what, host)


def _inside(key: str, other: str) -> bool:
    return key == other or key.startswith(f"{other}.")
