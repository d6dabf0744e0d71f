# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A xenstored for tests: it speaks xenstore's wire protocol (public/io/xs_wire.h) on
a socket, so that the daemon meets it through the real libxenstore, with watches
and transactions. The test itself is the toolstack and the guest: it writes nodes
by calling the store.

Nothing is forbidden to anybody here; permissions are taken and forgotten.
"""
import contextlib
import os
import socket
import struct
import threading

from harness import wait_for

HEADER = struct.Struct("<IIII")  # type, request, transaction, length
(DIRECTORY, READ, WATCH, UNWATCH, TRANSACTION_START, TRANSACTION_END) = (1, 2, 4, 5, 6, 7)
(WRITE, MKDIR, RM, SET_PERMS, WATCH_EVENT, ERROR) = (11, 12, 13, 14, 15, 16)
HOST = "/local/domain/0"


class Refused(Exception):
    pass


class Transaction:
    def __init__(self, store):
        self.seen, self.nodes, self.changes = store.version, dict(store.nodes), []


class Client:
    """One connection of a program: its watches, its transactions."""

    def __init__(self, store, sock):
        self.store, self.sock = store, sock
        self.watches, self.transactions, self.last = [], {}, 0

    def receive(self, length):
        data = b""
        while len(data) < length:
            more = self.sock.recv(length - len(data))
            if not more:
                raise ConnectionError
            data += more
        return data

    def send(self, kind, request, transaction, data):
        self.sock.sendall(HEADER.pack(kind, request, transaction, len(data)) + data)

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                kind, request, transaction, length = HEADER.unpack(self.receive(HEADER.size))
                data = self.receive(length)
                with self.store.lock:
                    self.answer(kind, request, transaction, data)
        with self.store.lock:
            self.store.clients.remove(self)
        self.sock.close()

    def answer(self, kind, request, transaction, data):
        words = data.split(b"\0")
        path = words[0].decode()
        if not path.startswith("/"):
            path = f"{HOST}/{path}"
        try:
            reply = self.do(kind, transaction, path, words, data)
        except Refused as why:
            kind, reply = ERROR, str(why).encode() + b"\0"
        self.send(kind, request, transaction, reply)
        if kind == WATCH:  # a new one fires at once
            self.send(WATCH_EVENT, 0, 0, words[0] + b"\0" + words[1] + b"\0")
        self.store.fire()

    def do(self, kind, transaction, path, words, data):
        at = self.transactions[transaction] if transaction else self.store
        if kind == READ or kind == DIRECTORY:
            if path not in at.nodes:
                raise Refused("ENOENT")
            if kind == READ:
                self.store.told.add(path)
                value = at.nodes[path]
                self.store.on_read.get(path, lambda: None)()
                return value
            inside = {p[len(path) + 1:].split("/")[0] for p in at.nodes if p.startswith(path + "/")}
            return b"".join(name.encode() + b"\0" for name in sorted(inside))
        if kind == WATCH or kind == UNWATCH:
            watch = (path, words[0], words[1])
            if kind == WATCH:
                self.watches.append(watch)
            elif watch in self.watches:
                self.watches.remove(watch)
            else:
                raise Refused("ENOENT")
        elif kind == TRANSACTION_START:
            self.last += 1
            self.transactions[self.last] = Transaction(self.store)
            return b"%d\0" % self.last
        elif kind == TRANSACTION_END:
            ended = self.transactions.pop(transaction)
            if words[0] == b"T":
                if ended.changes and ended.seen != self.store.version:
                    raise Refused("EAGAIN")
                for change in ended.changes:
                    self.store.change(self.store, *change)
        elif kind == WRITE or kind == MKDIR or kind == RM:
            value = None if kind == RM else data[data.index(b"\0") + 1:] if kind == WRITE else b""
            if kind == MKDIR and path in at.nodes:
                return b"OK\0"
            self.store.change(at, path, value)
            if transaction:
                at.changes.append((path, value))
        elif kind != SET_PERMS:
            raise Refused("ENOSYS")
        return b"OK\0"


class Store:
    def __init__(self, folder):
        self.path = os.path.join(folder, "xenstored")
        self.nodes, self.version, self.fired = {}, 0, []
        self.clients, self.watchers = [], []
        self.on_read = {}  # node: what happens just behind a look at it
        self.told = set()  # nodes that were read since they have changed
        self.lock = threading.RLock()
        self.listener = socket.socket(socket.AF_UNIX)
        self.write({f"{HOST}/domid": 0, f"{HOST}/name": "Domain-0"})

    def start(self):
        self.listener.bind(self.path)
        self.listener.listen()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client = Client(self, self.listener.accept()[0])
                with self.lock:
                    self.clients.append(client)
                threading.Thread(target=client.serve, daemon=True).start()

    def stop(self):
        # shutdown wakes the thread in accept(); close alone does not
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def change(self, at, path, value):
        """Of the store or of a transaction; value None: remove it."""
        if value is None:
            gone = [p for p in at.nodes if p == path or p.startswith(path + "/")]
            for p in gone:
                del at.nodes[p]
        else:
            parts = path.split("/")
            for n in range(2, len(parts)):
                at.nodes.setdefault("/".join(parts[:n]), b"")
            at.nodes[path] = value
            self.told.discard(path)
            gone = []
        if at is self:
            self.version += 1
            self.fired += [path] + [p for p in gone if p != path]

    def fire(self):
        fired, self.fired = self.fired, []
        for path in fired:
            for look in list(self.watchers):
                look(path)
            for client in self.clients:
                for watched, _, token in client.watches:
                    if path == watched or path.startswith(watched + "/"):
                        with contextlib.suppress(OSError):
                            client.send(WATCH_EVENT, 0, 0, path.encode() + b"\0" + token + b"\0")

    # ---- for the test ----

    def write(self, nodes):
        """{path: value}, at once."""
        with self.lock:
            for path, value in nodes.items():
                self.change(self, path, str(value).encode())
            self.fire()

    def remove(self, path):
        with self.lock:
            self.change(self, path, None)
            self.fire()

    def watch(self, path, seen):
        """Each new value of a node goes to the list seen, until what it returns is called."""
        def look(changed):
            if changed == path:
                seen.append(self.read(path))
        self.watchers.append(look)
        return lambda: self.watchers.remove(look)

    def watches(self):
        """How many watches programs have."""
        with self.lock:
            return sum(len(client.watches) for client in self.clients)

    def read(self, path):
        with self.lock:
            value = self.nodes.get(path)
        return None if value is None else value.decode()


class Vbd:
    """A disk of a guest: its two folders, written as xl writes them."""

    def __init__(self, store, params, domid=7, devid=51712, mode="w", kind="vbd3", more=None,
                 name=None):
        self.store, self.domid, self.devid = store, domid, devid
        self.name = f"vbd-{domid}-{devid}"
        self.domain = name or f"guest{domid}"
        self.back = f"{HOST}/backend/{kind}/{domid}/{devid}"
        self.front = f"/local/domain/{domid}/device/vbd/{devid}"
        self.create(params, mode, more)

    def create(self, params, mode="w", more=None):
        back = {"frontend": self.front, "frontend-id": self.domid, "params": params,
                "mode": mode, "online": 1} | (more or {}) | {"state": 1}
        front = {"backend": self.back, "backend-id": 0, "state": 1}
        self.store.write({f"/local/domain/{self.domid}/name": self.domain} |
                         {f"{self.front}/{k}": v for k, v in front.items()} |
                         {f"{self.back}/{k}": v for k, v in back.items()})

    def set(self, **nodes):
        """The toolstack's."""
        self.store.write({f"{self.back}/{k}": v for k, v in nodes.items()})

    def guest(self, nodes):
        self.store.write({f"{self.front}/{k}": v for k, v in nodes.items()})

    def get(self, key):
        return self.store.read(f"{self.back}/{key}")

    def wait_state(self, state):
        wait_for(f"state {state} of {self.name}, which is {self.get('state')}",
                 lambda: self.get("state") == str(state))

    def ring(self, **nodes):
        """The front end publishes a ring."""
        self.guest({"ring-ref": 8, "event-channel": 5, "protocol": "x86_64-abi"} |
                   {k.replace("_", "-"): v for k, v in nodes.items()} | {"state": 3})

    def heard(self):
        """The daemon has seen the guest's state."""
        wait_for(f"{self.name} to be looked at", lambda: f"{self.front}/state" in self.store.told)

    def close(self):
        """As xl block-detach does, with a guest that lets go."""
        self.set(online=0, state=5)
        self.guest({"state": 6})
        self.wait_state(6)
        self.remove()

    def remove(self):
        self.store.remove(self.back)
        self.store.remove(self.front)
