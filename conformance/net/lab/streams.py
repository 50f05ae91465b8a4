"""Clients that hold a stream open each, and reconnect at once when it breaks.

Arguments: ADDRESS PORT COUNT RATE RECONNECT(yes|no). Opens COUNT streams at RATE a second. Lines of
JSON: `["open", cluster]` for each first byte of a first stream, `["broken", at]` when a stream
ended, `["again", broken_at, first_byte, cluster]` when its successor has its first byte,
`["failed", broken_at, at, error]` when an attempt had none. Ends when standard input does.
"""

import errno
import json
import os
import select
import socket
import sys
import time

REQUEST = b"GET /hold HTTP/1.1\r\nHost: web.shop\r\n\r\n"
RETRY_AFTER = 0.05


def say(record):
    sys.stdout.write(json.dumps(record) + "\n")


class Clients:
    """All of them in one loop."""

    def __init__(self, target, reconnect):
        self.target = target
        self.reconnect = reconnect
        self.poll = select.epoll()
        self.open = {}
        self.again = []

    def start(self, broken_at):
        stream = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        stream.setblocking(False)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        fd = stream.fileno()
        self.open[fd] = [stream, broken_at, "connecting"]
        self.poll.register(fd, select.EPOLLOUT)
        fault = stream.connect_ex(self.target)
        if fault not in (0, errno.EINPROGRESS):
            self.end(fd, os.strerror(fault))

    def end(self, fd, error):
        stream, broken_at, state = self.open.pop(fd)
        self.poll.unregister(fd)
        stream.close()
        now = time.monotonic()
        if state == "held":
            say(["broken", now])
            if self.reconnect:
                self.start(now)
            return
        say(["failed", broken_at, now, error])
        self.again.append((now + RETRY_AFTER, broken_at or now))

    def ready(self, fd):
        entry = self.open[fd]
        stream, broken_at, state = entry
        try:
            if state == "connecting":
                fault = stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if fault:
                    self.end(fd, os.strerror(fault))
                    return
                stream.send(REQUEST)
                entry[2] = "asked"
                self.poll.modify(fd, select.EPOLLIN)
                return
            some = stream.recv(4096)
        except BlockingIOError:
            return
        except OSError as fault:
            self.end(fd, fault.strerror)
            return
        if not some:
            self.end(fd, "ended without an answer")
        elif state == "asked":
            entry[2] = "held"
            cluster = json.loads(some.split(b"\r\n\r\n", 1)[1] or b'{"cluster":"?"}')["cluster"]
            if broken_at is None:
                say(["open", cluster])
            else:
                say(["again", broken_at, time.monotonic(), cluster])

    def run(self, count, rate):
        stop = sys.stdin.fileno()
        self.poll.register(stop, select.EPOLLIN)
        begin = time.monotonic()
        begun = 0
        while True:
            now = time.monotonic()
            while begun < count and begin + begun / rate <= now:
                begun += 1
                self.start(None)
            while self.again and self.again[0][0] <= now:
                self.start(self.again.pop(0)[1])
            busy = begun < count or self.again
            for fd, _ in self.poll.poll(0.005 if busy else 0.2):
                if fd == stop:
                    return
                self.ready(fd)
            sys.stdout.flush()


def main():
    address, port, count, rate, reconnect = sys.argv[1:6]
    Clients((address, int(port)), reconnect == "yes").run(int(count), float(rate))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
