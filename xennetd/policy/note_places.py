"""The places of what notes are about: the file, and the line of the setting.

A policy does not keep its places. They are found in the files' texts when an administrator is to read the notes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from xennetd.config.document import Document, Place, parse
from xennetd.config.lines import KeyPath
from xennetd.policy.check import Note


def placed(notes: Iterable[Note], contents: Sequence[tuple[str, bytes]]) -> list[str]:
    """Return the sentences of `notes`, each with `FILE:LINE: ` before it where the note is about a setting.

    `contents` are the files (name and content, in order) that the notes' policy was loaded from. They are parsed again
    if there is such a note, which takes as long as loading them.
    """
    documents: list[Document] | None = None
    sentences = []
    for note in notes:
        if note.key and documents is None:
            documents = [document for file, data in contents if isinstance(document := parse(file, data), Document)]
        place = next(_places(note.key, documents or ()), None)
        sentences.append(f"{place}: {note.sentence}" if place is not None else note.sentence)
    return sentences


def _places(key: KeyPath, documents: Sequence[Document]) -> Iterator[Place]:
    """Yield the places of a setting. Each is given in one file only; rules are counted over all files."""
    section, *path = key or ("",)
    for document in documents:
        found = document.data.get(str(section))
        if section == "policy" and isinstance(found, list) and isinstance(path[0], int):
            if path[0] < len(found):
                yield _place(document, (section, *path))
                return
            path[0] -= len(found)
        elif isinstance(found, dict) and path[0] in found:
            yield _place(document, (section, *path))


def _place(document: Document, key: KeyPath) -> Place:
    place = document.root
    for part in key:
        place /= part
    return place
