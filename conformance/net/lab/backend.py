"""HTTP/1.1 servers that say where they are: `/load` a body that can be checked to the last byte,
`/hold` the first line of a long body and then silence, `/bulk` as much as is taken. Arguments: cluster, then ADDRESS:PORT/POD...
"""

import contextlib
import select
import socket
import sys
import threading

FILLER = 4096
HELD = 1 << 20


def line(cluster, pod):
    return f'{{"cluster":"{cluster}","pod":"{pod}"}}\n'.encode()


def load_body(first):
    """The whole body behind a first line: different in every position, and per answerer."""
    seed = sum(first) % 95
    return first + bytes(32 + (i * 13 + i // 95 + seed) % 95 for i in range(FILLER))


def head(length):
    return (f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n").encode()


def flood(stream):
    """Sends until nobody takes it."""
    with contextlib.suppress(OSError), stream:
        stream.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True:
            stream.sendall(bytes(65536))


class Server:
    """Any number of listeners in one loop: thousands of streams cost little here."""

    def __init__(self):
        self.poll = select.epoll()
        self.listeners = {}
        self.open = {}

    def listen(self, address, port, first):
        listener = socket.create_server((address, port), backlog=4096)
        listener.setblocking(False)
        body = load_body(first)
        answers = {"/load": head(len(body)) + body, "/hold": head(HELD) + first}
        self.listeners[listener.fileno()] = (listener, answers)
        self.poll.register(listener, select.EPOLLIN)

    def accept(self, listener, answers):
        while True:
            try:
                stream, _ = listener.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError:
                return  # No descriptor left: the connection waits in the backlog.
            stream.setblocking(False)
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.open[stream.fileno()] = [stream, answers, b""]
            self.poll.register(stream, select.EPOLLIN | select.EPOLLRDHUP)

    def close(self, fd):
        stream = self.open.pop(fd)[0]
        self.poll.unregister(fd)
        stream.close()

    def give_away(self, fd):
        """A thread of its own sends on this connection from now on."""
        stream = self.open.pop(fd)[0]
        self.poll.unregister(fd)
        stream.setblocking(True)
        threading.Thread(target=flood, args=(stream,), daemon=True).start()

    def read(self, fd):
        entry = self.open[fd]
        stream, answers, seen = entry
        try:
            some = stream.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            some = b""
        if not some:
            self.close(fd)
            return
        entry[2] = seen = seen + some
        if not seen.endswith(b"\r\n\r\n"):
            return
        path = seen.split(b" ", 2)[1].decode()
        if path == "/bulk":
            self.give_away(fd)
            return
        answer = answers.get(path)
        if answer is None:
            self.close(fd)
            return
        try:
            # A fresh socket's buffer holds these few KiB whole.
            if stream.send(answer) != len(answer):
                self.close(fd)
            elif path == "/load":
                stream.shutdown(socket.SHUT_WR)
        except OSError:
            self.close(fd)

    def run(self):
        while True:
            for fd, _ in self.poll.poll():
                if fd in self.listeners:
                    self.accept(*self.listeners[fd])
                elif fd in self.open:
                    self.read(fd)


def main():
    server = Server()
    cluster = sys.argv[1]
    for argument in sys.argv[2:]:
        at, pod = argument.split("/")
        address, port = at.split(":")
        server.listen(address, int(port), line(cluster, pod))
    print("ok", flush=True)
    server.run()


if __name__ == "__main__":
    main()
