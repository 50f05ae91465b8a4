"""The delay line: a TUN device in every cloud's namespace and one process that moves packets.

Each pair of clouds has a one-way delay, ±10 %, that never reorders. What sets out within 20 ms is
delayed alike: were every packet delayed by itself, a burst kept in order would always wait for its
slowest, and the mean would not be the round trip. A packet belongs to the cloud
that the third octet of its address names. Started with the namespaces' paths; then takes lines on
standard input, each answered by `ok` on standard output: `rtt A B MILLISECONDS`; `jitter SHARE`;
`loss SHARE`, of the packets of every way; `rate MBIT`, of every way, with a queue of 40 ms.
"""

import ctypes
import fcntl
import gc
import heapq
import os
import random
import select
import struct
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
CLONE_NEWNET = 0x40000000
JITTER = 0.1
LONGEST_QUEUE = 0.04
SAME_DELAY = 0.02
BATCH = 128
LONGEST_PACKET = 65536


def open_tun(path):
    """A TUN device named wan0 in the namespace at `path`; this process goes back home."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(path, os.O_RDONLY)
    if libc.setns(there, CLONE_NEWNET) != 0:
        sys.exit(f"cannot enter {path}: {os.strerror(ctypes.get_errno())}")
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH14x", b"wan0", IFF_TUN | IFF_NO_PI))
    if libc.setns(home, CLONE_NEWNET) != 0:
        sys.exit("cannot go back to the own namespace")
    os.close(home)
    os.close(there)
    return tun


class Line:
    """Packets on their way."""

    def __init__(self, tuns):
        self.tuns = tuns
        self.one_way = {}
        self.last = {}
        self.drawn = {}
        self.due = []
        self.count = 0
        self.jitter = JITTER
        self.loss = 0.0
        self.seconds_per_octet = 0.0
        self.free = {}

    def set_round_trip(self, a, b, seconds):
        self.one_way[a, b] = self.one_way[b, a] = seconds / 2
        self.drawn.clear()

    def delay(self, way, now):
        """The delay of what sets out now."""
        until, delay = self.drawn.get(way, (0.0, 0.0))
        if now >= until:
            delay = self.one_way[way] * random.uniform(1 - self.jitter, 1 + self.jitter)
            self.drawn[way] = (now + SAME_DELAY, delay)
        return delay

    def command(self, name, *arguments):
        """Does what a line on standard input says."""
        if name == "rtt":
            self.set_round_trip(int(arguments[0]), int(arguments[1]), float(arguments[2]) / 1000)
        elif name == "jitter":
            self.jitter = float(arguments[0])
            self.drawn.clear()
        elif name == "loss":
            self.loss = float(arguments[0])
        elif name == "rate":
            self.seconds_per_octet = 8e-6 / float(arguments[0])

    def sent(self, way, now, octets):
        """When the last octet has left the queue; None if the queue is full or it is lost."""
        begins = max(now, self.free.get(way, 0.0))
        if begins - now > LONGEST_QUEUE or random.random() < self.loss:
            return None
        self.free[way] = begins + octets * self.seconds_per_octet
        return self.free[way]

    def take(self, source):
        """Reads what the namespace sent, and schedules it."""
        tun = self.tuns[source]
        for _ in range(BATCH):
            try:
                packet = os.read(tun, LONGEST_PACKET)
            except BlockingIOError:
                return
            if len(packet) < 20 or packet[0] >> 4 != 4:
                continue
            target = packet[18]
            way = (source, target)
            if way not in self.one_way:
                continue
            now = time.monotonic()
            left = self.sent(way, now, len(packet))
            if left is None:
                continue
            at = max(left + self.delay(way, now), self.last.get(way, 0.0))
            self.last[way] = at
            self.count += 1
            heapq.heappush(self.due, (at, self.count, target, packet))

    def deliver(self):
        """Hands over what is due; seconds until the next, if any."""
        while self.due:
            wait = self.due[0][0] - time.monotonic()
            if wait > 0:
                return wait
            _, _, target, packet = heapq.heappop(self.due)
            try:
                os.write(self.tuns[target], packet)
            except OSError:
                pass  # The device's queue is full: a router would drop it too.
        return None


def main():
    tuns = {number: open_tun(path) for number, path in enumerate(sys.argv[1:], 1)}
    line = Line(tuns)
    by_fd = {fd: number for number, fd in tuns.items()}
    commands = sys.stdin.buffer.raw
    gc.disable()
    print("ok", flush=True)
    while True:
        wait = line.deliver()
        ready, _, _ = select.select([commands, *by_fd], [], [], wait)
        for fd in ready:
            if fd is not commands:
                line.take(by_fd[fd])
                continue
            text = commands.read(4096)
            if not text:
                return
            for command in text.decode().splitlines():
                line.command(*command.split())
                print("ok", flush=True)


if __name__ == "__main__":
    main()
