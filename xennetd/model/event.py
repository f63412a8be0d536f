"""The events of the audit trail: the content of a journal entry and of a line of `xennetctl monitor`."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from xennetd.model.vif import VifId


class EventKind(Enum):
    """The kinds of event: label and fixed MESSAGE_ID (systemd.journal-fields(7)), explained in conf/xennetd.catalog."""

    ATTACH = ("attach", "17cfb1a3a61447ed8c9f4b9282ea61ea")
    DETACH = ("detach", "ef78a4df3d31405f8fc018466903da11")
    CHANGE = ("change", "de0af7e039f64089bd43c95ecc351a17")
    DENIED = ("denied", "120d1482fa4f4c1889bcf4a3af331c4a")
    ERROR = ("error", "eedc490db6474286ae700979a4beda0c")
    DRIFT = ("drift", "c16152cffc6b4a8390e16f7c21dc6a82")
    ADOPT = ("adopt", "236524c151634406ab6f05c2138fa67e")
    PIN = ("pin", "4509560160aa4891a8da394fa9467f6e")
    HOOK = ("hook", "7ceb3f9f8ba5420d8419459d3ab9447e")
    WARNING = ("warning", "f1f02dbd86884bc9b7e9ab30e44679f5")
    RELOAD = ("reload", "5e9ab80fe28340c19b48e57c687ee6a3")
    APPLY = ("apply", "8fc1bd351e8f4c61b83a9257ae7e3bb4")

    def __init__(self, label: str, message_id: str) -> None:
        self.label = label
        self.message_id = message_id


class Event(Struct, frozen=True):
    """One event. `message` is a whole sentence. All texts are safe to show (`model.text.visible`).

    `duration_us` and `realtime_us` (since the epoch) are in microseconds. `repairs` is the number of repairs that a
    drift record stands for.
    """

    kind: EventKind
    message: str
    vif: VifId | None = None
    vm: str | None = None
    uuid: str | None = None
    mac: str | None = None
    ips: tuple[str, ...] = ()
    network: str | None = None
    bridge: str | None = None
    vlan: str | None = None
    policy: str | None = None
    duration_us: int | None = None
    repairs: int | None = None
    error: str | None = None
    realtime_us: int = 0
