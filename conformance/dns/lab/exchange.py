"""Many messages to one or several servers at once, and which answer belongs to which."""

import collections
import contextlib
import select
import socket
import time

# Under way at a time with each server: fewer than its receive buffer holds. What is older than a
# server takes for an answer is no longer in that buffer.
WINDOW = 128
FRESH = 0.03
# Unanswered for so long, it was dropped or lost; it is asked once more before that is believed. Where
# that would be a fault, a busy machine is given more time, and less at once.
PATIENCE = 0.4
MUCH_PATIENCE, FEW = 3.0, 16
# Frames in one write over TCP.
FRAMES = 32


class _Asker:
    """One server over UDP, asked those of the messages."""

    def __init__(self, address, messages, which, patient):
        self.messages, self.todo, self.answers = messages, collections.deque(which), {}
        self.window, self.patience = (FEW, MUCH_PATIENCE) if patient else (WINDOW, PATIENCE)
        self.fresh_for = self.patience if patient else FRESH
        # When each was sent, oldest first.
        self.fresh, self.old = {}, {}
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.setblocking(False)
        self.socket.connect(address)

    def send(self, now):
        while self.todo and len(self.fresh) < self.window:
            number = self.todo.popleft()
            self.fresh[number] = now
            with contextlib.suppress(OSError):
                self.socket.send(self.messages[number])

    def read(self):
        with contextlib.suppress(OSError):
            while True:
                octets = self.socket.recv(65535)
                number = int.from_bytes(octets[:2], "big")
                self.fresh.pop(number, None)
                self.old.pop(number, None)
                self.answers.setdefault(number, octets)

    def age(self, now):
        for kept, limit in ((self.fresh, self.fresh_for), (self.old, self.patience)):
            for number, sent in list(kept.items()):
                if now - sent < limit:
                    break
                del kept[number]
                if kept is self.fresh:
                    self.old[number] = sent

    def busy(self):
        return self.todo or self.fresh or self.old


def over_udp(addresses, messages, times=2, patient=False):
    """Per address, the answers by id; so are `messages`."""
    kept = [{} for _ in addresses]
    for _ in range(times):
        askers = [_Asker(address, messages, [number for number in messages if number not in known], patient)
                  for address, known in zip(addresses, kept)]
        by_socket = {asker.socket: asker for asker in askers}
        while any(asker.busy() for asker in askers):
            now = time.monotonic()
            for asker in askers:
                asker.send(now)
                asker.age(now)
            for ready in select.select(list(by_socket), [], [], 0.01)[0]:
                by_socket[ready].read()
        for asker, known in zip(askers, kept):
            asker.read()
            asker.socket.close()
            known.update(asker.answers)
    return kept


def over_tcp(address, messages, patient=False):
    """The answers by id; so are `messages`. Many go in one write; those that had no answer when a connection
    ended, or fell silent, are asked again one by one, because an end takes away answers too."""
    answers, todo = {}, list(messages.items())
    patience = MUCH_PATIENCE if patient else PATIENCE
    for batch in (todo[at:at + FRAMES] for at in range(0, len(todo), FRAMES)):
        answers.update(_connection(address, batch, patience))
    for number, message in todo:
        if number not in answers:
            answers.update(_connection(address, [(number, message)], patience))
    return answers


def _connection(address, batch, patience):
    """What a connection of its own answers to these in one write."""
    answers, octets = {}, b""
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=patience) as connection:
        connection.sendall(b"".join(len(message).to_bytes(2, "big") + message for _, message in batch))
        while len(answers) < len(batch):
            more = connection.recv(1 << 16)
            if not more:
                break
            octets += more
            while len(octets) >= 2 and len(octets) >= 2 + int.from_bytes(octets[:2], "big"):
                end = 2 + int.from_bytes(octets[:2], "big")
                answers[int.from_bytes(octets[2:4], "big")] = octets[2:end]
                octets = octets[end:]
    return answers
