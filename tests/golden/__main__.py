"""`python -m tests.golden`: write the golden files anew, and say which of them have changed."""

from __future__ import annotations

from tests.golden.plans import DIRECTORY, GOLDENS


def main() -> None:
    """Write what has changed, and take away what is of no example any more."""
    for file, text in GOLDENS.items():
        now = text()
        if not file.exists() or file.read_text() != now:
            file.write_text(now)
            print(f"written: {file.name}")
    for file in sorted(set(DIRECTORY.glob("*.txt")) - GOLDENS.keys()):
        file.unlink()
        print(f"removed: {file.name}")


if __name__ == "__main__":
    main()
