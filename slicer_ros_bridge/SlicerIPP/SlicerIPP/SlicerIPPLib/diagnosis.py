# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Says in one sentence whether a bridge answers at an address, and if not, what to do."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from samm_core import ipp

from .i18n import tr as _
from .keys import Keys, next_event, read_keys, token_for, use_keys

if TYPE_CHECKING:
    import zmq

LIMIT_S = 3.0


def diagnose(address: str, keys_folder: str = "") -> str:
    """Try the bridge at `address`. Blocks, LIMIT_S at most."""
    import zmq

    try:
        return _try(address, read_keys(keys_folder))
    except ipp.ProtocolError:
        return _(
            "What answers at {address} is no slicer_bridge; its port is 8800 unless bridge_port:= says otherwise."
        ).format(address=address)
    except ValueError as error:
        return str(error)
    except zmq.ZMQError as error:
        return _("{address} is no address ({reason}); write it as tcp://HOST:8800.").format(
            address=address, reason=error.strerror
        )


def _try(address: str, keys: Keys | None) -> str:
    import zmq

    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.linger = 0
    # Hello is sent on the connection that was looked at, or on none.
    dealer.immediate = 1
    use_keys(dealer, keys)
    monitor = dealer.get_monitor_socket()
    try:
        dealer.connect(address)
        answer, seen = _ask(
            dealer, monitor, lambda connection: "" if keys else token_for(connection, address)
        )
        if answer is not None:
            with contextlib.suppress(zmq.Again):
                dealer.send_multipart(ipp.pack(ipp.FROM_SLICER, "bye"), zmq.DONTWAIT)
    finally:
        dealer.disable_monitor()
        context.destroy(linger=0)
    if answer is None:
        return _why_silent(address, seen)
    if answer.type == "welcome":
        return _("All is well: {software} answers at {address}.").format(
            software=answer["software"], address=address
        )
    return _("The bridge at {address} answers: {answer}").format(
        address=address, answer=answer.get("message", answer.type)
    )


def _ask(
    dealer: zmq.Socket, monitor: zmq.Socket, token_of: Callable[[int], str]
) -> tuple[ipp.Message | None, set[int]]:
    """Say hello once connected: the bridge's answer, if one comes in time, and the numbers of the socket's events.

    token_of: as token_for, of a connection.
    """
    import zmq

    poller = zmq.Poller()
    poller.register(dealer, zmq.POLLIN)
    poller.register(monitor, zmq.POLLIN)
    hello = {
        "version": ipp.VERSION,
        "client": f"test-{os.getpid()}-{time.monotonic_ns()}",
        "software": "Slicer-IPP",
    }
    seen: set[int] = set()
    made = -1
    deadline = time.monotonic() + LIMIT_S
    while (left := deadline - time.monotonic()) > 0:
        ready = dict(poller.poll(left * 1000))
        if monitor in ready:
            event, value = next_event(monitor)
            seen.add(event)
            if event == zmq.EVENT_CONNECTED:
                made = value
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                with contextlib.suppress(ConnectionError, zmq.Again):
                    frames = ipp.pack(ipp.FROM_SLICER, "hello", **hello, token=token_of(made))
                    dealer.send_multipart(frames, zmq.DONTWAIT)
        if dealer in ready:
            return ipp.unpack(ipp.FROM_BRIDGE, dealer.recv_multipart()), seen
    return None, seen


def _why_silent(address: str, seen: set[int]) -> str:
    import zmq

    if zmq.EVENT_CONNECTED not in seen:
        text = _(
            "Nothing listens at {address}: start the graph there (./samm up), and check the address and the firewall "
            "between."
        )
    elif zmq.EVENT_HANDSHAKE_SUCCEEDED not in seen:
        text = _(
            "{address} refuses this Slicer: it wants keys, or does not know these. Choose the folder with "
            "client.key_secret and server.key, and see that client.key lies in the bridge's folder `allowed`."
        )
    else:
        text = _(
            "{address} does not answer: is it slicer_bridge's port (8800)? The SAMM extension's is 8799. "
            "A bridge in a container wants keys."
        )
    return text.format(address=address)
