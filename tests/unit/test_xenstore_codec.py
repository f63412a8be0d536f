"""xenstore's wire format: what is encoded is decoded, and no bytes raise anything but ProtocolError."""

from __future__ import annotations

import errno
import struct
import time
from collections.abc import Callable
from itertools import pairwise

import pytest
import pyxs._internal
import pyxs.helpers
from hypothesis import given
from hypothesis import strategies as st

from xennetd.xenstore import codec
from xennetd.xenstore.codec import Decoder, Packet, ProtocolError

operations = st.sampled_from([*range(20), 21, codec.DIRECTORY_PART])
word = st.integers(0, 2**32 - 1)
packets = st.builds(Packet, operations, word, word, st.binary(max_size=codec.PAYLOAD_MAX))
HEADER = struct.Struct("=IIII")
names = st.text("abcXYZ019-_@", min_size=1, max_size=20)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(n % (len(data) + 1) for n in at), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(st.lists(packets, max_size=5), st.lists(st.integers(0, 20000), max_size=8))
def test_messages_come_out_as_they_went_in_however_the_stream_is_cut(sent: list[Packet], at: list[int]) -> None:
    decoder = Decoder()
    stream = b"".join(codec.encode(*packet) for packet in sent)
    assert [packet for chunk in cut(stream, at) for packet in decoder.feed(chunk)] == sent


def complaint(decode: Callable[[bytes], object], data: bytes) -> str:
    """What the ProtocolError says that `decode` raises, if it does; any other error fails the test."""
    try:
        decode(data)
    except ProtocolError as error:
        return error.sentence
    return ""


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_any_bytes_are_messages_or_a_protocol_error(chunks: list[bytes]) -> None:
    decoder = Decoder()
    for chunk in chunks:
        if said := complaint(decoder.feed, chunk):
            assert "no xenstore message" in said
            break


@given(st.binary(max_size=300))
def test_any_payload_is_parsed_or_a_protocol_error(payload: bytes) -> None:
    for parse in (codec.parse_event, codec.parse_directory_part, codec.parse_transaction_id):
        said = complaint(parse, payload)
        assert said.isascii()
        assert said.isprintable()
    assert codec.parse_errno(payload) > 0
    if payload.endswith(b"\0") or not payload:
        assert all("\0" not in name for name in codec.parse_names(payload))
    else:
        assert complaint(codec.parse_names, payload)


@pytest.mark.parametrize(
    ("operation", "limit"),
    [
        *((op, codec.PAYLOAD_MAX) for op in (codec.READ, codec.DIRECTORY_PART, codec.WATCH_EVENT, codec.ERROR)),
        (codec.DIRECTORY, codec.LISTING_MAX),
    ],
)
def test_a_header_that_announces_too_much_is_refused_before_it_is_waited_for(operation: int, limit: int) -> None:
    assert Decoder().feed(HEADER.pack(operation, 1, 0, limit)) == []
    with pytest.raises(ProtocolError, match=f" {limit + 1} bytes"):
        Decoder().feed(HEADER.pack(operation, 1, 0, limit + 1))


@given(st.lists(st.integers(0, 2**20), max_size=8))
def test_the_names_of_all_domids_come_in_one_message_between_others(at: list[int]) -> None:
    """As oxenstored sends them."""
    domids = [str(domid) for domid in range(32752)]
    listing = codec.join_strings(domids)
    sent = [Packet(codec.READ, 1, 0, b"0"), Packet(codec.DIRECTORY, 2, 0, listing), Packet(codec.READ, 3, 0, b"1")]
    stream = b"".join(HEADER.pack(*packet[:3], len(packet.payload)) + packet.payload for packet in sent)
    decoder = Decoder()
    assert [packet for chunk in cut(stream, at) for packet in decoder.feed(chunk)] == sent
    assert codec.parse_names(listing) == domids


def test_a_long_message_costs_no_more_in_small_pieces() -> None:
    """A decoder that put all pieces together again with each one would copy 34 GB here."""
    decoder = Decoder()
    payload = bytes(codec.LISTING_MAX)
    stream = HEADER.pack(codec.DIRECTORY, 1, 0, len(payload)) + payload
    began = time.process_time()
    packets = [packet for start in range(0, len(stream), 16) for packet in decoder.feed(stream[start : start + 16])]
    assert packets == [Packet(codec.DIRECTORY, 1, 0, payload)]
    assert time.process_time() - began < 1


@pytest.mark.parametrize("operation", [20, 23, 99, 128])
def test_an_unknown_operation_is_refused(operation: int) -> None:
    with pytest.raises(ProtocolError, match=f"operation {operation} "):
        Decoder().feed(codec.encode(operation, 1, 0, b""))


def test_operations_have_the_numbers_that_pyxs_has() -> None:
    theirs = pyxs._internal.Op._asdict()
    ours = {name: number for name in theirs if (number := getattr(codec, name, None)) is not None}
    assert ours == {
        name: theirs[name]
        for name in (
            "DIRECTORY", "READ", "WATCH", "UNWATCH", "TRANSACTION_START", "TRANSACTION_END", "WRITE", "RM",
            "WATCH_EVENT", "ERROR",
        )
    }  # fmt: skip


def test_a_message_that_would_cost_the_connection_is_not_encoded() -> None:
    assert len(codec.encode(codec.WRITE, 1, 0, bytes(4096))) == 16 + 4096
    with pytest.raises(ProtocolError, match="4097"):
        codec.encode(codec.WRITE, 1, 0, bytes(4097))


@pytest.mark.parametrize(
    ("payload", "number"),
    [(b"ENOENT\0", errno.ENOENT), (b"EAGAIN\0", errno.EAGAIN), (b"E2BIG\0", errno.E2BIG),
     (b"EQUOTA\0", errno.EDQUOT), (b"EWHAT\0", errno.EIO)],
)  # fmt: skip
def test_errors_are_told_apart_by_errno(payload: bytes, number: int) -> None:
    assert codec.parse_errno(payload) == number


@pytest.mark.parametrize(
    "name",
    [
        "EINVAL", "EACCES", "EEXIST", "EISDIR", "ENOENT", "ENOMEM", "ENOSPC", "EIO", "ENOTEMPTY", "ENOSYS", "EROFS",
        "EBUSY", "EAGAIN", "EISCONN", "E2BIG",
    ],
)  # fmt: skip
def test_every_error_of_xs_wire_h_is_known_as_pyxs_knows_it(name: str) -> None:
    assert codec.parse_errno(name.encode() + b"\0") == pyxs.helpers.error(name.encode()).args[0] == getattr(errno, name)


@given(st.lists(names, max_size=20))
def test_a_listing_is_its_names(children: list[str]) -> None:
    assert codec.parse_names(codec.join_strings(children)) == children


@given(st.lists(names, max_size=20), st.data())
def test_a_listing_in_parts_is_its_names(children: list[str], data: st.DataObject) -> None:
    listing, rest = codec.DirectoryParts(), [*children, ""]
    while rest:
        assert not listing.complete
        assert listing.offset == len(codec.join_strings(children)) + 1 - len(codec.join_strings(rest))
        count = data.draw(st.integers(1, len(rest)))
        assert listing.add(b"7\0" + codec.join_strings(rest[:count]))
        del rest[:count]
    assert listing.complete
    assert listing.names() == children


def test_a_listing_that_changes_meanwhile_is_no_listing() -> None:
    listing = codec.DirectoryParts()
    assert listing.add(b"7\0a\0b\0")
    assert not listing.add(b"8\0c\0\0")


def test_a_listing_without_end_is_refused() -> None:
    listing = codec.DirectoryParts()

    def add_parts(count: int) -> None:
        for _ in range(count):
            assert listing.add(b"7\0" + b"name\0" * 800)

    add_parts(codec.LISTING_MAX // 4000)
    with pytest.raises(ProtocolError, match=str(codec.LISTING_MAX)):
        add_parts(1)


@given(names, names)
def test_an_event_is_path_and_token(path: str, token: str) -> None:
    assert codec.parse_event(codec.join_strings((path, token))) == (path, token)


@pytest.mark.parametrize("payload", [b"0\0", b"", b"\0", b"-1\0", b"4294967296\0", b"1x\0", b"\xb2\0"])
def test_a_transaction_needs_a_number(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        codec.parse_transaction_id(payload)


@given(st.lists(names, min_size=1, max_size=9), st.booleans())
def test_paths_that_xenstored_takes_are_taken(parts: list[str], absolute: bool) -> None:
    path = "/" * absolute + "/".join(parts)
    assert codec.check_path(path) == path


@pytest.mark.parametrize(
    "path",
    ["", "a/", "a//b", "//", "a b", "vif1.0", "a\n", "a\0", "/a/é", "a" * 2049, "/" + "a" * 3072],
)
def test_paths_that_name_no_node_are_refused(path: str) -> None:
    with pytest.raises(pyxs.InvalidPath):
        codec.check_path(path)


def test_paths_may_be_as_long_as_xenstored_allows() -> None:
    codec.check_path("/" + "a" * 3071)
    codec.check_path("a" * 2048)
    codec.check_path("/")
