"""The ground under the scenarios: delay, order, drops and rejects, without any agent."""

import contextlib
import socket
import statistics
import struct
import time

from mesh import Mesh
from plan import CLOUDS, PORT, ROUND_TRIP_MS, pod


def connect(mesh, a, b, timeout=5.0):
    """Seconds that a TCP handshake takes: one round trip."""
    with mesh.namespaces[a].socket(socket.SOCK_STREAM, timeout) as stream:
        begun = time.monotonic()
        stream.connect((pod(b, 0), PORT))
        return time.monotonic() - begun


def outcome(mesh, a, b):
    """What a client sees: "connected", "reset" or "silence"."""
    try:
        connect(mesh, a, b, timeout=0.5)
        return "connected"
    except TimeoutError:
        return "silence"
    except ConnectionError:
        return "reset"


def reordered(mesh, count=2000):
    """Of datagrams sent from paris to tokyo, how many arrived behind a later one, or not."""
    receiver = mesh.namespaces["tokyo"].socket(socket.SOCK_DGRAM, 1.0)
    sender = mesh.namespaces["paris"].socket(socket.SOCK_DGRAM, 1.0)
    with receiver, sender:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        receiver.bind((pod("tokyo", 0), 7000))
        for number in range(count):
            sender.sendto(struct.pack("!I", number), (pod("tokyo", 0), 7000))
            if number % 20 == 0:
                time.sleep(0.002)
        seen = []
        with contextlib.suppress(TimeoutError):
            while len(seen) < count:
                seen.append(struct.unpack("!I", receiver.recv(4))[0])
    behind = sum(later < earlier for earlier, later in zip(seen, seen[1:]))
    return behind + count - len(seen)


def the_lab_itself(lab, check):
    """The delay line and the faults do what the scenarios say they do."""
    none = {cloud: 0 for cloud in CLOUDS}
    mesh = Mesh(lab.prefix, check.scenario, lab.binary, lab.dir, none)
    try:
        for (a, b), milliseconds in ROUND_TRIP_MS.items():
            took = [1000 * connect(mesh, a, b) for _ in range(15)]
            check.between(f"round_trip_{a}_{b}", statistics.median(took), "ms",
                          milliseconds * 0.9, milliseconds * 1.1 + 8)
        check.exactly("reordered_or_lost", reordered(mesh), "datagrams", 0)

        mesh.switch.round_trip("paris", "oregon", 60)
        slower = statistics.median(1000 * connect(mesh, "paris", "oregon") for _ in range(5))
        check.between("round_trip_changed", slower, "ms", 54, 74)
        mesh.switch.round_trip("paris", "oregon", 20)

        wrong = 0
        for fault, expected in (
            (lambda: mesh.cut("oregon"), ("silence", "silence", "silence")),
            (lambda: mesh.cut("oregon", "ip saddr 10.77.1.0/24", None),
             ("silence", "silence", "connected")),
            (lambda: mesh.cut("oregon", "meta l4proto tcp", None, "reject with tcp reset"),
             ("reset", "silence", "reset")),
            (lambda: mesh.heal("oregon"), ("connected", "connected", "connected")),
        ):
            fault()
            pairs = (("paris", "oregon"), ("oregon", "paris"), ("tokyo", "oregon"))
            found = tuple(outcome(mesh, a, b) for a, b in pairs)
            if found != expected:
                check.note(f"expected {expected}, found {found}")
                wrong += 1
            if mesh.namespaces["oregon"].hits() == 0 and "connected" not in expected:
                check.note("nothing was counted")
                wrong += 1
        check.exactly("faults_that_differ", wrong, "faults", 0)
    finally:
        mesh.close()
