"""Messages between a process and its child: a JSON header and raw bytes, both length-prefixed.

Nothing here is unpickled, so a file that subverts a decoder can at most send wrong pictures.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

_LENGTHS = struct.Struct(">IQ")
_MOST_BYTES = 2**24, 2**30  # of a header, of a payload; what claims to be longer is nonsense


class Channel:
    """One end of a stream socket. A ``deadline`` is a reading of ``time.monotonic()``; None waits forever."""

    def __init__(self, end: socket.socket):
        self._socket = end

    def send(self, header: dict[str, Any], payload: bytes = b"", deadline: float | None = None) -> None:
        """Send one message.

        Raises:
            TimeoutError: the deadline passed.
            ConnectionError: the other side is gone.
            ValueError: it is longer than messages may be.
        """
        text = json.dumps(header).encode()
        _check_lengths(len(text), len(payload))
        self._limit(deadline)
        self._socket.sendall(_LENGTHS.pack(len(text), len(payload)) + text)
        if payload:
            self._limit(deadline)
            self._socket.sendall(payload)

    def receive(self, deadline: float | None = None) -> tuple[dict[str, Any], memoryview]:
        """The next message: header and payload; errors as in :meth:`send`, and ValueError for one that is none."""
        text_length, payload_length = _LENGTHS.unpack(self._read(_LENGTHS.size, deadline))
        _check_lengths(text_length, payload_length)
        header = json.loads(bytes(self._read(text_length, deadline)))
        if not isinstance(header, dict):
            raise ValueError("a message whose header is no object")
        return header, self._read(payload_length, deadline)

    def close(self) -> None:
        """Close this end; the other side reads the end of the stream."""
        self._socket.close()

    def _limit(self, deadline: float | None) -> None:
        if deadline is None:
            self._socket.settimeout(None)
            return
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("deadline passed")
        self._socket.settimeout(left_s)

    def _read(self, length: int, deadline: float | None) -> memoryview:
        buffer = memoryview(bytearray(length))
        filled = 0
        while filled < length:
            self._limit(deadline)
            count = self._socket.recv_into(buffer[filled:])
            if count == 0:
                raise ConnectionError("the other side closed the connection")
            filled += count
        return buffer


def _check_lengths(*lengths: int) -> None:
    if any(length > most for length, most in zip(lengths, _MOST_BYTES, strict=True)):
        raise ValueError(f"a message of {lengths[0]} + {lengths[1]} bytes")
