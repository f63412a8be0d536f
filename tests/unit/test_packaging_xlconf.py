"""packaging/xlconf.py: switching xl.conf to xennetd and back changes nothing else in it."""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

PROGRAM = Path(__file__).parents[2] / "packaging" / "xlconf.py"

STOCK = """\
## Global XL config file ##

# default vif script to use if none is specified in the guest config
#vif.default.script="vif-bridge"

# default bridge device to use with vif-bridge hotplug scripts
#vif.default.bridge="xenbr0"
"""


def _load() -> ModuleType:
    # Not `import packaging.xlconf`: that name is PyPI's.
    spec = importlib.util.spec_from_file_location("xlconf", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


xlconf = _load()

LINES = st.lists(
    st.one_of(
        st.text(max_size=20),
        st.sampled_from(
            [
                'vif.default.script="vif-bridge"',
                "  vif.default.script = 'vif-openvswitch' ; autoballoon=1",
                '#vif.default.script="vif-bridge"',
                'vif.default.script="vif-xennetd"',
                "# a comment",
                "",
                "\r",
            ]
        ),
    ),
    max_size=8,
)
TEXTS = st.none() | LINES.map("\n".join) | LINES.map(lambda lines: "\n".join([*lines, ""]))


class TestThereAndBack:
    @given(TEXTS)
    def test_is_the_identity(self, text: str | None) -> None:
        assert xlconf.switch_back(xlconf.switch(text)) == text

    @given(TEXTS)
    def test_switching_twice_is_switching_once(self, text: str | None) -> None:
        assert xlconf.switch(xlconf.switch(text)) == xlconf.switch(text)

    @given(TEXTS)
    def test_nothing_above_is_touched(self, text: str | None) -> None:
        assert xlconf.switch(text).startswith(text or "")

    @given(TEXTS)
    def test_back_alone_changes_nothing(self, text: str | None) -> None:
        assert xlconf.switch_back(text) == text

    @given(TEXTS.filter(lambda text: text is not None), LINES, LINES)
    def test_edits_in_between_stay(self, text: str, above: list[str], below: list[str]) -> None:
        edited = "\n".join([*above, xlconf.switch(text), *below])
        assert xlconf.switch_back(edited) == "\n".join([*above, text, *below])


class TestRefused:
    def test_an_edit_of_our_own_line(self) -> None:
        edited = xlconf.switch(STOCK).replace('"vif-xennetd"', '"vif-route"')
        with pytest.raises(xlconf.Refused, match=r"line 9 was changed since"):
            xlconf.switch_back(edited)
        with pytest.raises(xlconf.Refused, match=r"line 9 was changed since"):
            xlconf.switch(edited)

    def test_our_line_twice(self) -> None:
        with pytest.raises(xlconf.Refused, match=r"line 10 repeats line 8"):
            xlconf.switch_back(xlconf.switch(STOCK) + xlconf.switch(None).replace(" (and this file)", ""))

    def test_the_mark_without_the_line(self) -> None:
        with pytest.raises(xlconf.Refused, match=r"line 2 was changed since"):
            xlconf.switch_back(xlconf.MARK)


class TestTheProgram:
    @staticmethod
    def run(verb: str, path: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, PROGRAM, verb, path], capture_output=True, text=True, check=False)

    @pytest.mark.parametrize("text", [None, b"", STOCK.encode(), b'vif.default.script="vif-bridge"', b"#\xff\n\x00"])
    def test_there_and_back_on_disk(self, tmp_path: Path, text: bytes | None) -> None:
        path = tmp_path / "xl.conf"
        if text is not None:
            path.write_bytes(text)
            path.chmod(0o640)
        assert self.run("switch", path).returncode == 0
        assert b'\nvif.default.script="vif-xennetd"' in path.read_bytes()
        if text is not None:
            assert (tmp_path / "xl.conf.before-xennetd").read_bytes() == text
        assert self.run("names-ours", path).returncode == 0
        assert self.run("switch-back", path).returncode == 0
        assert self.run("names-ours", path).returncode == 1
        assert (path.read_bytes() if path.exists() else None) == text
        assert text is None or path.stat().st_mode & 0o777 == 0o640
        assert {entry.name for entry in tmp_path.iterdir()} == (set() if text is None else {"xl.conf"})

    def test_the_backup_stays_when_the_file_was_edited(self, tmp_path: Path) -> None:
        path = tmp_path / "xl.conf"
        path.write_text(STOCK)
        self.run("switch", path)
        path.write_text(path.read_text() + 'autoballoon="off"\n')
        assert "with what was edited since" in self.run("switch-back", path).stdout
        assert path.read_text() == STOCK + 'autoballoon="off"\n'
        assert (tmp_path / "xl.conf.before-xennetd").read_text() == STOCK

    def test_a_setting_made_by_hand_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "xl.conf"
        path.write_text('vif.default.script="vif-xennetd"\n')
        ended = self.run("switch-back", path)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert "change it by hand" in ended.stderr

    def test_a_link_stays_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "real").write_text(STOCK)
        (tmp_path / "xl.conf").symlink_to("real")
        self.run("switch", tmp_path / "xl.conf")
        assert (tmp_path / "xl.conf").is_symlink()
        assert xlconf.switched((tmp_path / "real").read_text())


class TestXlReadsIt:
    """Xen's own parser (libxlu_cfg, which xl uses) on what `switch` wrote."""

    @pytest.fixture
    def library(self) -> ctypes.CDLL:
        found = sorted(Path("/usr/lib").glob("*-linux-gnu/libxlutil.so.4.*"))
        if not found:
            pytest.skip("no libxlutil (Debian's package libxenmisc4.*)")
        library = ctypes.CDLL(str(found[-1]))
        library.xlu_cfg_init.restype = ctypes.c_void_p
        return library

    @staticmethod
    def script(library: ctypes.CDLL, text: bytes) -> bytes | None:
        libc = ctypes.CDLL(None)
        libc.fdopen.restype = ctypes.c_void_p
        handle = ctypes.c_void_p(library.xlu_cfg_init(ctypes.c_void_p(libc.fdopen(2, b"w")), b"xl.conf"))
        assert library.xlu_cfg_readdata(handle, text, len(text)) == 0
        value = ctypes.c_char_p()
        library.xlu_cfg_get_string(handle, b"vif.default.script", ctypes.byref(value), 0)
        return value.value

    @pytest.mark.parametrize(
        "text",
        [
            None,
            "",
            STOCK,
            STOCK.rstrip("\n"),
            'vif.default.script="vif-bridge"',
            "x=1;vif.default.script='vif-bridge'; y=2\n",
            'a=[ "b",\n#vif.default.script="c"\n"d" ]\n',
        ],
    )
    def test_and_takes_ours(self, library: ctypes.CDLL, text: str | None) -> None:
        assert self.script(library, xlconf.switch(text).encode()) == b"vif-xennetd"
        assert xlconf.script(xlconf.switch(text)) == "vif-xennetd"
