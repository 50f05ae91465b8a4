"""Open-loop load: RATE new connections a second to ADDRESS PORT, whatever became of those before.

Each is timed from the instant it was scheduled for; nothing is tried again; success is the whole
expected body. One line of JSON when a connection begins, `["+", scheduled]`, and one when it ended,
`["-", scheduled, first_byte, ended, cluster, error]`. Ends when standard input does, after the
last connection has.
"""

import errno
import json
import os
import select
import socket
import sys
import time

from backend import load_body

GIVE_UP = 10.0


def verified(answer):
    """The cluster that gave this answer, if it is whole and what that cluster would say."""
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found or not head.startswith(b"HTTP/1.1 200 "):
        return None
    first, newline, _ = body.partition(b"\n")
    if not newline or body != load_body(first + newline):
        return None
    return json.loads(first)["cluster"]


class Connection:
    """One connection from its instant to its end."""

    def __init__(self, scheduled, target):
        self.scheduled = scheduled
        self.first_byte = None
        self.answer = b""
        self.sent = False
        self.stream = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.stream.setblocking(False)
        self.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.fault = self.stream.connect_ex(target)
        if self.fault == errno.EINPROGRESS:
            self.fault = 0

    def ready(self):
        """Goes on; (cluster, error) when it has ended."""
        try:
            if not self.sent:
                fault = self.stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if fault:
                    return None, os.strerror(fault)
                self.stream.send(b"GET /load HTTP/1.1\r\nHost: web.shop\r\n\r\n")
                self.sent = True
                return None
            some = self.stream.recv(65536)
        except BlockingIOError:
            return None
        except OSError as fault:
            return None, fault.strerror
        if some:
            self.first_byte = self.first_byte or time.monotonic()
            self.answer += some
            return None
        cluster = verified(self.answer)
        return cluster, None if cluster else f"not the expected answer ({len(self.answer)} bytes)"


class Load:
    """All connections."""

    def __init__(self, target, rate):
        self.target = target
        self.period = 1 / rate
        self.poll = select.epoll()
        self.open = {}
        self.stop = sys.stdin.fileno()
        self.begin = time.monotonic()
        self.count = 0

    def next(self):
        return self.begin + self.count * self.period

    def start(self):
        scheduled = self.next()
        self.count += 1
        say(["+", scheduled])
        connection = Connection(scheduled, self.target)
        fd = connection.stream.fileno()
        self.open[fd] = connection
        self.poll.register(fd, select.EPOLLOUT)
        if connection.fault:
            self.end(fd, None, os.strerror(connection.fault))

    def end(self, fd, cluster, error):
        connection = self.open.pop(fd)
        self.poll.unregister(fd)
        connection.stream.close()
        now = time.monotonic()
        say(["-", connection.scheduled, connection.first_byte, now, cluster, error])

    def step(self, wait):
        for fd, _ in self.poll.poll(max(wait, 0)):
            if fd == self.stop:
                self.poll.unregister(fd)
                self.stop = None
                continue
            connection = self.open[fd]
            was_sent = connection.sent
            ended = connection.ready()
            if ended:
                self.end(fd, *ended)
            elif connection.sent and not was_sent:
                self.poll.modify(fd, select.EPOLLIN)

    def give_up(self):
        limit = time.monotonic() - GIVE_UP
        late = [fd for fd, connection in self.open.items() if connection.scheduled < limit]
        for fd in late:
            self.end(fd, None, f"no whole answer within {GIVE_UP:.0f} s")

    def run(self):
        self.poll.register(self.stop, select.EPOLLIN)
        while self.stop is not None or self.open:
            now = time.monotonic()
            while self.stop is not None and self.next() <= now:
                self.start()
            # epoll counts in milliseconds, rounded up: never early, up to 1 ms late.
            self.step(min(self.next() - now, 0.05) if self.stop is not None else 0.05)
            self.give_up()


def say(record):
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


def main():
    address, port, rate = sys.argv[1:4]
    Load((address, int(port)), float(rate)).run()


if __name__ == "__main__":
    main()
