"""What `xennetctl status` calls a problem, for which it exits 1, and what it only notes."""

from __future__ import annotations

from pathlib import Path

from tests.bed.daemon import STAND_IN
from tests.bed.guest import Bed
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.status import status
from tests.kernel.verdict import connected, refused

QUARANTINE = '[[policy]]\nname = "quarantine"\nmatch = { vm = "bad" }\ndeny = "not before Monday"\n'


def test_a_guest_in_error_is_a_problem(bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    xennetd = daemon()
    refused(bed, guest("web", VifSpec(bridge="nowhere")).vif)
    answer = status(xennetd)
    (problem,) = answer["problems"]
    assert problem.startswith('vif1.0 of web: bridge "nowhere" does not exist')
    assert not any("vif1.0" in note for note in answer["notes"])
    assert xennetd.ctl("status").returncode == 1


def test_what_is_as_somebody_wanted_it_is_noted(bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    bed.host.bridge("xenbr0")
    xennetd = daemon(STAND_IN + '[network.lan]\nmode = "bridge"\nbridge = "xenbr0"\n' + QUARANTINE)
    bad, web = guest("bad"), guest("web")
    refused(bed, bad.vif)
    connected(bed, web.vif)
    assert xennetd.ctl("pin", "web").returncode == 0
    answer = status(xennetd)
    assert answer["problems"] == []
    denied, pinned, stand_in, unused = answer["notes"]
    assert (denied.startswith("vif1.0 of bad: "), "not before Monday" in denied) == (True, True)
    assert "is pinned: xennetd does not touch it until unpin" in pinned
    assert stand_in.startswith("daemon.stand_in is true")
    assert unused == 'network "lan": no policy uses it'
    shown = xennetd.ctl("status")
    assert shown.returncode == 0
    assert shown.stdout.startswith(f"- {denied}\n- ")


def test_a_file_whose_name_is_not_utf8_is_named_in_every_answer(bed: Bed, daemon: MakeDaemon, tmp_path: Path) -> None:
    config = tmp_path / "web\udcff.toml"
    config.write_text(STAND_IN + '[network.lan]\nmode = "bridge"\nbridge = "xenbr0"\n')
    xennetd = daemon(arguments=["--config", str(config)])
    (shown,) = status(xennetd)["config"]
    assert shown == f"{tmp_path}/web\\udcff.toml"
    assert shown in xennetd.ctl("status").stdout
    check = xennetd.ctl("check")
    assert (check.returncode, f'{shown}:3: network "lan": no policy uses it' in check.stdout) == (0, True)
    config.write_text("[network.lan]\n")
    refused = xennetd.ctl("reload")
    assert (refused.returncode, f"{shown}:1: network.lan" in refused.stdout + refused.stderr) == (1, True)


def test_observing_is_noted(bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    xennetd = daemon(arguments=["--observe"])
    answer = status(xennetd)
    assert answer["problems"] == []
    assert any(note.startswith("daemon.mode is observe") for note in answer["notes"])
    assert xennetd.ctl("status").returncode == 0


def test_the_host_is_looked_at_once_for_each_reload(bed: Bed, daemon: MakeDaemon) -> None:
    """`status` answers from memory, however much there is to check; `check` looks anew."""
    xennetd = daemon()
    directory = Path("/etc/xen/scripts/vif-post.d")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "50-late.hook").write_text("true\n")
    (directory / "50-late.hook").chmod(0o755)
    assert not any("50-late.hook" in note for note in status(xennetd)["notes"])
    assert "50-late.hook" in xennetd.ctl("check").stdout
    assert xennetd.ctl("reload").returncode == 0
    assert any("50-late.hook" in note for note in status(xennetd)["notes"])


def test_a_configuration_that_others_may_write_is_loaded_at_a_start_and_refused_later(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon
) -> None:
    bed.host.bridge("xenbr0")
    xennetd = daemon()
    xennetd.terminate()
    xennetd.config.chmod(0o666)
    xennetd.start()
    connected(bed, guest("web").vif)
    sentence = f"{xennetd.config}: everyone may write to it (mode 0666): run chmod go-w {xennetd.config}"
    assert status(xennetd)["problems"] == [sentence]
    check, reload = xennetd.ctl("check"), xennetd.ctl("reload")
    assert (check.returncode, f"problem: {sentence}" in check.stdout) == (1, True)
    assert (reload.returncode, sentence in reload.stderr) == (1, True)
    xennetd.config.chmod(0o644)
    assert status(xennetd)["problems"] == []
    assert xennetd.ctl("reload").returncode == 0
    xennetd.config.chmod(0o664)
    (later,) = status(xennetd)["problems"]
    assert later.endswith(f"run chmod g-w {xennetd.config}")
