"""A TCP proxy for Kafka that cuts connections at chosen requests: unsent, unanswered, or arriving late; or is slow."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal, Self

from worker.embedded import HOST, EmbeddedKafka, free_port

ADD_PARTITIONS_TO_TXN = 24
CHUNK_BYTES = 16 * 1024


@dataclass
class Cut:
    """Where to cut: at the `first` request of a type, and at every so manieth after it; how often it happened.

    `before`: the broker never sees the request. `after`: the client never sees the answer. `late`: the client is cut
    off, may send the request again, and the broker sees the first copy in the middle of the client's next transaction,
    just before its request of the type `until`; the error codes of its answers are kept.
    """

    api_key: int
    when: Literal["before", "after", "late"]
    first: int
    every: int
    until: int | None = None
    met: int = 0
    made: int = 0
    error_codes: list[int] = field(default_factory=list)

    def is_due(self, api_key: int) -> bool:
        if api_key != self.api_key:
            return False
        self.met += 1
        return self.met >= self.first and (self.met - self.first) % self.every == 0


@dataclass
class HeldUp:
    """A request on its long way to the broker."""

    cut: Cut
    frame: bytes
    in_next_transaction: bool = False

    def has_come(self, api_key: int) -> bool:
        """Tell whether it arrives before this request does."""
        self.in_next_transaction |= api_key == ADD_PARTITIONS_TO_TXN
        return self.in_next_transaction and api_key == self.cut.until


class Proxy:
    """Listens on a port of its own and forwards to another, frame by frame; while closed, it refuses everybody."""

    def __init__(self, port: int, upstream_port: int) -> None:
        self.bootstrap_servers = f"{HOST}:{port}"
        self.bytes_per_s: float | None = None
        """How much of the requests of all clients together it forwards; None for as much as they send."""
        self._free_at_s = 0.0
        self._port = port
        self._upstream = (HOST, upstream_port)
        self._lock = threading.Lock()
        self._cut: Cut | None = None
        self._held_up: HeldUp | None = None
        self._connections: set[Connection] = set()
        self._is_open = False
        self._listener: socket.socket | None = None
        self._accepting: threading.Thread | None = None
        self._threads: set[threading.Thread] = set()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        self._listener = socket.create_server((HOST, self._port))
        self._listener.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * CHUNK_BYTES
        )  # what is slow waits at the client
        self._is_open = True
        self._accepting = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        self._accepting.start()

    def close(self) -> None:
        """Cut every connection and refuse new ones."""
        assert self._listener is not None, "not open"
        assert self._accepting is not None, "not open"
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the accepting thread
        self._accepting.join(10)
        self._listener.close()
        with self._lock:
            self._is_open = False
            connections, threads = list(self._connections), list(self._threads)
        for connection in connections:
            connection.cut()
        for thread in threads:
            thread.join(10)

    @contextmanager
    def cutting(self, cut: Cut) -> Iterator[Cut]:
        """Cut like this, from now on and until the context is left."""
        self._cut = cut
        try:
            yield cut
        finally:
            self._cut = self._held_up = None

    def pace(self, size: int) -> None:
        """Wait until so many bytes of a request are through."""
        if self.bytes_per_s is None:
            return
        with self._lock:
            self._free_at_s = max(self._free_at_s, time.monotonic()) + size / self.bytes_per_s
            wait_s = self._free_at_s - time.monotonic()
        time.sleep(wait_s)

    def due(self, api_key: int) -> Cut | None:
        """Count a request, and return the cut that it is due for."""
        with self._lock:
            is_free = self._cut is not None and self._held_up is None
            return self._cut if is_free and self._cut.is_due(api_key) else None

    def made(self, cut: Cut) -> None:
        with self._lock:
            cut.made += 1

    def hold_up(self, cut: Cut, frame: bytes) -> None:
        with self._lock:
            self._held_up = HeldUp(cut, frame)

    def let_arrive(self, api_key: int) -> None:
        """Let the broker see the request that was held up, if it arrives before this one."""
        with self._lock:
            held_up = self._held_up
            if held_up is None or not held_up.has_come(api_key):
                return
            self._held_up = None
        with socket.create_connection(self._upstream) as late:
            late.sendall(held_up.frame)
            answer = next(frames(late))
        held_up.cut.error_codes += struct.unpack(">h", answer[-2:])
        self.made(held_up.cut)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # shut down
            while True:
                thread = threading.Thread(target=self._serve, args=(listener.accept()[0],), daemon=True)
                with self._lock:
                    self._threads.add(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.create_connection(self._upstream) as upstream:
            connection = Connection(self, client, upstream)
            with self._lock:
                self._connections.add(connection)
                if not self._is_open:
                    connection.cut()
            connection.forward()
            with self._lock:
                self._connections.discard(connection)
        with self._lock:
            self._threads.discard(threading.current_thread())


class Connection:
    """One client's connection, and the one to the broker on its behalf."""

    def __init__(self, proxy: Proxy, client: socket.socket, upstream: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._upstream = upstream
        self._unanswered: dict[int, Cut] = {}
        for end in (client, upstream):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def forward(self) -> None:
        """Forward both ways until either end is gone or a cut is due."""
        answers = threading.Thread(target=self._forward_answers, daemon=True)
        answers.start()
        self._forward_requests()
        answers.join()

    def cut(self) -> None:
        for end in (self._client, self._upstream):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _forward_requests(self) -> None:
        with suppress(OSError):
            for frame in frames(self._client, self._proxy.pace):
                api_key, _version, correlation_id = struct.unpack_from(">hhi", frame, 4)
                cut = self._proxy.due(api_key)
                if cut is not None and cut.when != "after":
                    self._cut_unanswered(cut, frame)
                    break
                if cut is not None:
                    self._unanswered[correlation_id] = cut
                self._proxy.let_arrive(api_key)
                self._upstream.sendall(frame)
        self.cut()

    def _cut_unanswered(self, cut: Cut, frame: bytes) -> None:
        if cut.when == "late":
            self._proxy.hold_up(cut, frame)
        else:
            self._proxy.made(cut)
        self.cut()

    def _forward_answers(self) -> None:
        with suppress(OSError):
            for frame in frames(self._upstream):
                (correlation_id,) = struct.unpack_from(">i", frame, 4)
                if correlation_id in self._unanswered:
                    self._proxy.made(self._unanswered[correlation_id])
                    break
                self._client.sendall(frame)
        self.cut()


@contextmanager
def proxied_kafka() -> Iterator[tuple[str, Proxy]]:
    """Start a broker with a second listener, which tells its clients to come through the proxy."""
    direct, behind, front, controller = (free_port() for _ in range(4))
    overrides = {
        "listeners": f"PLAINTEXT://{HOST}:{direct},PROXIED://{HOST}:{behind},CONTROLLER://{HOST}:{controller}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{direct},PROXIED://{HOST}:{front}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.quorum.voters": f"1@{HOST}:{controller}",
    }
    with EmbeddedKafka(port=direct, overrides=overrides) as kafka, Proxy(front, behind) as proxy:
        yield kafka.bootstrap_servers, proxy


def frames(source: socket.socket, pace: Callable[[int], None] = lambda _size: None) -> Iterator[bytes]:
    """Read what Kafka's protocol sends: a size in four bytes, and so many bytes."""
    while len(head := source.recv(4, socket.MSG_WAITALL)) == 4:
        (left,) = struct.unpack(">i", head)
        parts = [head]
        while left:
            parts.append(source.recv(min(left, CHUNK_BYTES), socket.MSG_WAITALL))
            if not parts[-1]:
                return
            pace(len(parts[-1]))
            left -= len(parts[-1])
        yield b"".join(parts)
