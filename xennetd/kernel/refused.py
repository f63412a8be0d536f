"""Turns the kernel's refusal of a request about a host object into an error for users."""

from __future__ import annotations

import os

from xennetd.kernel.netlink import Ack
from xennetd.model.errors import HostError
from xennetd.model.objects import HostObject


def refused(wanted: HostObject, ack: Ack) -> HostError:
    """Return the error for an object that the kernel refused to make, change or remove."""
    sentence = f"the kernel refuses `{wanted.describe()}`: {os.strerror(ack.errno)}"
    return HostError(sentence, errno=ack.errno, detail=f"{sentence} ({ack.text})" if ack.text else sentence)
