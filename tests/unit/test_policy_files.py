"""Which files are read, and which are refused."""

import os
from pathlib import Path

import pytest

from xennetd.model.configuration import Policy
from xennetd.policy.files import exposed, read_files

DENY = "[[policy]]\nname = '{}'\ndeny = 'no'\n"


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    directory = tmp_path / "etc"
    (directory / "conf.d").mkdir(parents=True)
    return directory


def write(path: Path, text: str = "", mode: int = 0o644) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def problems(config: str | None = None, *, directory: Path = Path("/nonexistent")) -> list[str]:
    result = read_files(config, directory=directory).load()
    assert not isinstance(result, Policy)
    return [problem.describe() for problem in result]


def test_no_files_at_all_are_the_defaults(tmp_path: Path) -> None:
    assert read_files(directory=tmp_path / "nothing").load() == Policy()
    assert read_files(directory=tmp_path).load() == Policy()


def test_the_main_file_then_the_parts_by_name(etc: Path) -> None:
    for name in "dbeac":
        write(etc / f"conf.d/{name}.toml", DENY.format(name))
    write(etc / "xennetd.toml", DENY.format("main"))
    policy = read_files(directory=etc).load()
    assert isinstance(policy, Policy)
    assert [rule.name for rule in policy.rules] == ["main", *"abcde"]
    assert policy.files == (f"{etc}/xennetd.toml", *(f"{etc}/conf.d/{name}.toml" for name in "abcde"))


def test_what_is_no_part_is_passed_over(etc: Path) -> None:
    for name in ("a.toml~", ".b.toml", "c.conf", "d.toml.dpkg-new"):
        write(etc / "conf.d" / name, "not TOML")
    (etc / "conf.d/e.toml").mkdir()
    os.mkfifo(etc / "conf.d/f.toml")
    assert read_files(directory=etc).load() == Policy()


def test_an_explicit_file_is_the_only_one(etc: Path) -> None:
    write(etc / "xennetd.toml", "not TOML")
    mine = write(etc / "mine.toml", DENY.format("mine"))
    policy = read_files(str(mine), directory=etc).load()
    assert isinstance(policy, Policy)
    assert policy.files == (str(mine),)


def test_an_explicit_file_must_exist(tmp_path: Path) -> None:
    assert problems(f"{tmp_path}/x.toml") == [f"{tmp_path}/x.toml: can't be read: No such file or directory"]


def test_an_explicit_file_that_is_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.toml")
    assert problems(str(tmp_path / "x.toml")) == [f"{tmp_path}/x.toml: not a regular file"]
    assert problems(str(tmp_path)) == [f"{tmp_path}: can't be read: Is a directory"]


def test_links_to_nowhere_are_no_missing_files(etc: Path) -> None:
    (etc / "xennetd.toml").symlink_to("gone")
    (etc / "conf.d/a.toml").symlink_to("gone")
    assert problems(directory=etc) == [
        f"{etc}/xennetd.toml: can't be read: No such file or directory",
        f"{etc}/conf.d/a.toml: can't be read: No such file or directory",
    ]


@pytest.mark.parametrize(
    ("mode", "who", "remedy"),
    [(0o666, "everyone", "go-w"), (0o664, f"group {os.getegid()}", "g-w"), (0o602, "everyone", "go-w")],
)
def test_a_file_that_others_may_write_is_read_and_reported(etc: Path, mode: int, who: str, remedy: str) -> None:
    main = write(etc / "xennetd.toml", DENY.format("main"), mode=mode)
    policy = read_files(directory=etc).load()
    assert isinstance(policy, Policy)
    assert [rule.name for rule in policy.rules] == ["main"]
    found = f"{main}: {who} may write to it (mode {mode:04o}): run chmod {remedy} {main}"
    assert exposed(policy.files, directory=etc) == (found,)
    main.chmod(0o644)
    assert exposed(policy.files, directory=etc) == ()


@pytest.mark.parametrize("name", ["", "conf.d"])
@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_directory_that_others_may_write_is_reported_even_without_files(etc: Path, name: str, mode: int) -> None:
    (etc / name).chmod(mode)
    assert read_files(directory=etc).load() == Policy()
    (found,) = exposed((), directory=etc)
    assert found.startswith(f"{etc / name}: everyone may write to it")


def test_the_directory_of_an_explicit_file_counts_and_the_default_one_does_not(etc: Path, tmp_path: Path) -> None:
    (etc / "conf.d").chmod(0o777)
    other = tmp_path / "other"
    other.mkdir(mode=0o755)
    mine = str(write(other / "mine.toml"))
    assert exposed([mine], directory=etc) == ()
    other.chmod(0o775)
    (found,) = exposed([mine], directory=etc)
    assert found.endswith(f"run chmod g-w {other}")
    other.chmod(0o1777)  # Nobody may replace a file of root's there.
    assert exposed([mine], directory=etc) == ()


def test_a_symbolic_link_leads_to_the_file_and_the_directory_that_count(etc: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write(elsewhere / "real.toml", mode=0o666)
    elsewhere.chmod(0o777)
    link = etc / "xennetd.toml"
    link.symlink_to(elsewhere / "real.toml")
    directory, file = exposed([str(link)], directory=etc)
    assert directory.endswith(f"run chmod go-w {elsewhere}")
    assert file.endswith(f"run chmod go-w {link}")


def test_a_file_of_another_user_is_reported(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main = write(etc / "xennetd.toml")
    real = Path.stat

    def stat(path: Path) -> os.stat_result:
        result = real(path)
        return os.stat_result((*result[:4], 1000, *result[5:])) if path == main else result

    monkeypatch.setattr(Path, "stat", stat)
    who = "it belongs to user 1000, who may change xennetd's configuration"
    assert exposed([str(main)], directory=etc) == (f"{main}: {who}: run chown root {main}",)


def test_files_and_directories_that_can_not_be_read(etc: Path) -> None:
    main = etc / "xennetd.toml"
    main.symlink_to(main)
    (etc / "conf.d").rmdir()
    write(etc / "conf.d")
    assert problems(directory=etc) == [
        f"{etc}/conf.d: can't be read: Not a directory",
        f"{main}: can't be read: Too many levels of symbolic links",
    ]


def test_a_problem_of_reading_comes_with_those_of_the_other_files(etc: Path) -> None:
    (etc / "xennetd.toml").symlink_to("gone")
    write(etc / "conf.d/a.toml", "x = 1")
    places = [line.split(": ")[0] for line in problems(directory=etc)]
    assert places == [f"{etc}/xennetd.toml", f"{etc}/conf.d/a.toml:1"]


def test_file_names_that_are_not_utf8_can_be_reported(etc: Path) -> None:
    name = os.fsdecode(bytes(etc / "conf.d") + b"/\xff\n.toml")
    Path(name).write_text("x")
    (line,) = problems(directory=etc)
    assert line.isprintable()
    line.encode()
