"""`run`: a hotplug script, run as libxl runs it (libxl__get_hotplug_script_info, libxl_linux.c; device_hotplug)."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass

from tests.bed.toolstack import Vif
from tests.bed.xenstored import Xenstored

TIMEOUT = 40.0
"""LIBXL_HOTPLUG_TIMEOUT, in seconds; then comes SIGKILL."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a script ended: `status` 0 is what libxl wants of `online` and `add`; `seconds` is what libxl waited."""

    status: int
    output: str
    seconds: float


def environment(xenstored: Xenstored, vif: Vif) -> dict[str, str]:
    """libxl's variables, in addition to those that `xl` itself was started with."""
    variables = xenstored.environment() | {
        "script": vif.script,
        "XENBUS_TYPE": "vif",
        "XENBUS_PATH": f"backend/vif/{vif.domid}/{vif.devid}",
        "XENBUS_BASE_PATH": "backend",
        "netdev": vif.spec.gatewaydev or "",
        "vif": vif.netdev,
    }
    if vif.spec.type == "vif_ioemu":
        variables["INTERFACE"] = vif.tap
    return variables


def start(xenstored: Xenstored, vif: Vif, command: str) -> subprocess.Popen[str]:
    """Start the vif's script for `online`, `offline` (the vif), `add` or `remove` (its tap); don't wait."""
    kind = "vif" if command in ("online", "offline") else "tap"
    return subprocess.Popen(
        [vif.script, command, f"type_if={kind}"],
        env=environment(xenstored, vif),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(xenstored: Xenstored, vif: Vif, command: str, timeout: float = TIMEOUT) -> Result:
    """Run the vif's script to its end; subprocess.TimeoutExpired where libxl would have killed it."""
    began = time.monotonic()
    process = start(xenstored, vif, command)
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return Result(process.returncode, output, time.monotonic() - began)
