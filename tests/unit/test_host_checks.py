"""What the daemon finds of its host: which programs and libraries are not installed, and what it makes of that."""

from __future__ import annotations

import ctypes
import errno
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from xennetd.daemon import host_checks
from xennetd.daemon.host_checks import all_host_notes, host_notes, not_installed
from xennetd.daemon.root_link import RootLinks
from xennetd.dnsmasq import process
from xennetd.kernel.links import Links
from xennetd.model.configuration import Policy
from xennetd.model.errors import HostError
from xennetd.model.topology import Topology, TopologyLink
from xennetd.nft import library
from xennetd.policy.host_notes import HostNotes

NO_MODULE = "the Python module nftables is not installed: apt install python3-nftables"
NO_LIBRARY = "libnftables.so.1: cannot open shared object file: No such file or directory: apt install libnftables1"


class Installed:
    """What is installed on this host; at first everything is."""

    def __init__(self, patch: pytest.MonkeyPatch, directory: Path) -> None:
        self._patch = patch
        (directory / "nftables.py").write_text("class Nftables:\n    pass\n")
        (directory / "dnsmasq").touch(mode=0o755)
        self.library = True
        patch.delitem(sys.modules, "nftables", raising=False)
        patch.syspath_prepend(directory)
        patch.setattr(process, "_PATH", str(directory))
        patch.setattr(ctypes, "CDLL", self._load)

    def without_module(self) -> None:
        self._patch.setitem(sys.modules, "nftables", None)

    def without_dnsmasq(self) -> None:
        self._patch.setattr(process, "_PATH", "/nonexistent")

    def _load(self, name: str) -> ModuleType:
        if not self.library:
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        return ModuleType(name)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Installed]:
    library._library.cache_clear()
    yield Installed(monkeypatch, tmp_path)
    library._library.cache_clear()
    sys.modules.pop("nftables", None)


def test_a_host_that_has_everything_lacks_nothing(installed: Installed) -> None:
    assert not_installed() == HostNotes()


def test_without_dnsmasq(installed: Installed) -> None:
    installed.without_dnsmasq()
    assert not_installed() == HostNotes(no_dnsmasq="dnsmasq is not installed: apt install dnsmasq-base")


def test_without_the_python_module(installed: Installed) -> None:
    installed.without_module()
    assert not_installed() == HostNotes(no_nftables=NO_MODULE)
    with pytest.raises(HostError, match=f"nftables can't be used: {NO_MODULE}"):
        library.Nft().commit("")


def test_without_the_library_until_it_is_installed(installed: Installed) -> None:
    installed.library = False
    assert not_installed() == HostNotes(no_nftables=NO_LIBRARY)
    with pytest.raises(HostError, match=f"nftables can't be used: {NO_LIBRARY}"):
        library.Nft().read()
    installed.library = True
    assert not_installed() == HostNotes()


def test_a_start_serves_the_networks_that_lack_nothing(installed: Installed) -> None:
    """At start there are no links yet, and what a network lacks is no error; a reload with that policy is refused."""
    installed.without_module()
    installed.without_dnsmasq()
    start, reload = host_notes(Policy()), host_notes(Policy(), Links())
    assert (start.no_dnsmasq, start.no_nftables) == ("", "")
    assert (reload.no_dnsmasq, reload.no_nftables) == (not_installed().no_dnsmasq, NO_MODULE)


def test_only_a_topology_needs_to_know_the_links_of_the_root_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    topology = Topology((TopologyLink("bridge", "xenbr0", ports=("eth0",)),))
    asked: list[Topology] = []

    def found(_links: Links, topology: Topology) -> RootLinks:
        asked.append(topology)
        if len(asked) > 1:
            raise OSError(errno.EMFILE, "too many open files")
        return RootLinks(frozenset({"eth0"}), ("nbd0",))

    monkeypatch.setattr(host_checks, "root_links", found)
    monkeypatch.setattr(host_checks, "read_links", Links)
    first, second = (all_host_notes(Policy(topology=topology)) for _ in range(2))
    assert (first.root_links, first.root_unknown) == (frozenset({"eth0"}), ("nbd0",))
    assert (second.root_links, second.root_unknown) == (frozenset(), ())
    assert all_host_notes(Policy()).root_links == frozenset()
    assert asked == [topology, topology]
