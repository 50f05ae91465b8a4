"""The Kubernetes API over HTTPS with the admin's certificate: requests in a millisecond, and watches
whose events carry the time they came."""

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time

from tools import Failed

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"


class Api:
    """Of one cluster. Each thread has a connection of its own, kept alive."""

    def __init__(self, host, certs, user="admin", token=None):
        self.host, self.token = host, token
        self.tls = ssl.create_default_context(cafile=str(certs / "ca.crt"))
        if not token:
            self.tls.load_cert_chain(certs / f"{user}.crt", certs / f"{user}.key")
        self.local = threading.local()

    def connect(self, timeout):
        return http.client.HTTPSConnection(self.host, 6443, timeout=timeout, context=self.tls)

    def headers(self, content_type=None):
        headers = {"Accept": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if content_type:
            headers["Content-Type"] = content_type
        return headers

    def request(self, method, path, body=None, content_type="application/json", timeout=30):
        """(status, JSON or text). Raises Failed where the server gave no answer. `body` is a dict or text."""
        if body is not None and not isinstance(body, (str, bytes)):
            body = json.dumps(body)
        body = body.encode() if isinstance(body, str) else body
        while True:
            connection = getattr(self.local, "connection", None)
            kept = connection is not None
            connection = connection or self.connect(timeout)
            self.local.connection = None
            try:
                if connection.sock:
                    connection.sock.settimeout(timeout)
                connection.request(method, path, body, self.headers(content_type if body else None))
                reply = connection.getresponse()
                text = reply.read()
                break
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                # A kept connection may have ended while nobody looked; nothing was served on it.
                if kept and isinstance(error, (http.client.RemoteDisconnected, ConnectionError, ssl.SSLEOFError)):
                    continue
                raise Failed(f"{method} {path}: {error or type(error).__name__}") from error
        self.local.connection = connection
        try:
            return reply.status, json.loads(text)
        except ValueError:
            return reply.status, text.decode(errors="replace")

    def get(self, path, timeout=30):
        """The object or list at a path; Failed if it is not there."""
        status, found = self.request("GET", path, timeout=timeout)
        if status != 200:
            raise Failed(f"GET {path}: {status} {reason(found)}")
        return found

    def watch(self, path, known=None):
        return Watch(self, path, known)


def reason(reply):
    return reply.get("message", "") if isinstance(reply, dict) else str(reply)[:300]


class Watch:
    """Events of one path from now on, as (time.monotonic(), event); `objects` are those there at the start.

    It ends, with `ended` set and the reason in `why`, when the server ends it: whoever measures must know.
    """

    def __init__(self, api, path, known=None):
        self.events, self.ended, self.why = [], False, ""
        self.changed = threading.Condition()
        if known is None:
            listed = api.get(path)
            self.objects, known = listed.get("items", []), listed["metadata"]["resourceVersion"]
        else:
            self.objects = []
        self.connection = api.connect(30)
        mark = "&" if "?" in path else "?"
        try:
            self.connection.request("GET", f"{path}{mark}watch=1&allowWatchBookmarks=true&resourceVersion={known}",
                                    headers=api.headers())
            self.reply = self.connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise Failed(f"watch {path}: {error}") from error
        if self.reply.status != 200:
            raise Failed(f"watch {path}: {self.reply.status} {self.reply.read(300)}")
        self.socket = self.connection.sock or self.reply.fp.raw._sock  # http.client lets go of it.
        self.socket.settimeout(None)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        why = "ended by the server"
        try:
            for line in self.reply:
                now, event = time.monotonic(), json.loads(line)
                if event["type"] != "BOOKMARK":
                    with self.changed:
                        self.events.append((now, event))
                        self.changed.notify_all()
        except (OSError, ValueError, http.client.HTTPException, AttributeError) as error:
            why = str(error)
        with self.changed:
            self.ended, self.why = True, why
            self.changed.notify_all()

    def until(self, predicate, within, after=0):
        """The first (time, event) not before `after` whose event the predicate takes; Failed after `within` seconds."""
        deadline, seen = time.monotonic() + within, 0
        with self.changed:
            while True:
                for at, event in self.events[seen:]:
                    if at >= after and predicate(event):
                        return at, event
                seen = len(self.events)
                if self.ended:
                    raise Failed(f"the watch has ended: {self.why}")
                if not self.changed.wait(max(0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                    raise Failed(f"no such event within {within:g} s, of {seen}")

    def __iter__(self):
        """All events, as they come, until the watch ends."""
        seen = 0
        while True:
            with self.changed:
                while seen == len(self.events):
                    if self.ended:
                        return
                    self.changed.wait()
                fresh = self.events[seen:]
            seen += len(fresh)
            yield from fresh

    def close(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self.connection.close()
