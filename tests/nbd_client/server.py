# SPDX-License-Identifier: LGPL-2.1-or-later
"""An NBD server that loses power, hangs, lies and breaks off when it is told to.

What is written is volatile until a flush: power_cut() forgets it. A rule, a function
of (command, nth request of this server), says how to misbehave: None for not at all,
"late", "silence", "garbage", "half" a reply, "close", "drop" (done, but not answered: then
the connection ends), or an error number.
"""
import os
import socket
import struct
import threading
import time

from rig import (ACK, ERR_UNSUP, EXPORT_NAME, FLUSH, GO, INFO, OPTION_MAGIC, READ, REP_INFO,
                 REPLY_MAGIC, TRIM, WRITE, ZEROES, DISC, FUA, MiB)

HAS, RO, CAN_FLUSH, CAN_FUA, CAN_TRIM, CAN_ZERO, MULTI = 1, 2, 4, 8, 32, 64, 256
ALL = HAS | CAN_FLUSH | CAN_FUA | CAN_TRIM | CAN_ZERO


class Server:
    def __init__(self, path, size=4 * MiB, flags=ALL):
        self.path, self.flags = path, flags
        self.durable, self.cached = bytearray(size), bytearray(size)
        self.lock = threading.Lock()
        self.rule = lambda command, nth: None
        self.requests = self.connections = 0
        self.seen = []
        self.peers = set()
        self.listener = None

    def start(self):
        self.listener = socket.socket(socket.AF_UNIX)
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.listener.bind(self.path)
        self.listener.listen(20)
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()
        return self

    def stop(self):
        """All connections break, and nobody listens; the cache stays."""
        with self.lock: # who is let in from now on is hung up on
            listener, self.listener = self.listener, None
        if listener:
            os.unlink(self.path)
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self.lock:
            peers, self.peers = self.peers, set()
        for peer in peers:
            hang_up(peer)

    def power_cut(self):
        self.stop()
        with self.lock:
            self.cached[:] = self.durable

    def resize(self, size):
        with self.lock:
            self.durable, self.cached = bytearray(size), bytearray(size)

    def accept(self, listener):
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with self.lock:
                if self.listener is not listener:
                    hang_up(peer)
                    return
                self.peers.add(peer)
            threading.Thread(target=self.talk, args=(peer,), daemon=True).start()

    def talk(self, peer):
        try:
            self.negotiate(peer)
            with self.lock:
                self.connections += 1
            while self.serve(peer):
                pass
        except (OSError, EOFError):
            pass
        hang_up(peer)

    def negotiate(self, peer):
        peer.sendall(struct.pack(">8sQH", b"NBDMAGIC", OPTION_MAGIC, 3))
        get(peer, 4)
        while True:
            _, option, length = struct.unpack(">QII", get(peer, 16))
            data = get(peer, length)
            if option not in (GO, INFO):
                answer(peer, option, ERR_UNSUP)
                continue
            answer(peer, option, REP_INFO,
                   struct.pack(">HQH", 0, len(self.cached), self.flags))
            answer(peer, option, ACK)
            if option == GO:
                return

    def serve(self, peer):
        """One request; false: the connection is to end."""
        _, flags, command, cookie, offset, length = struct.unpack(">IHHQQI", get(peer, 28))
        data = get(peer, length) if command == WRITE else b""
        if command == DISC:
            return False
        with self.lock:
            if peer not in self.peers: # power is gone
                return False
            self.requests += 1
            self.seen.append((command, offset, length, flags))
            how = self.rule(command, self.requests)
        if how == "late":
            time.sleep(0.02)
        with self.lock:
            reply = self.do(command, flags, offset, length, data) \
                if how in (None, "late", "drop", "half") else b""
        if how == "silence":
            return True
        if how == "garbage":
            peer.sendall(os.urandom(64))
            return True
        if how in ("close", "drop"):
            return False
        error = how if isinstance(how, int) else 0
        reply = struct.pack(">IIQ", 0x67446698, error, cookie) + reply
        peer.sendall(reply[:len(reply) // 2] if how == "half" else reply)
        return how != "half"

    def do(self, command, flags, offset, length, data):
        end = offset + length
        if command == READ:
            return bytes(self.cached[offset:end])
        if command == FLUSH:
            self.durable[:] = self.cached
        elif command in (WRITE, ZEROES, TRIM):
            self.cached[offset:end] = data if command == WRITE else bytes(length)
            if flags & FUA:
                self.durable[offset:end] = self.cached[offset:end]
        return b""


def hang_up(peer):
    try:
        peer.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    peer.close()


def get(peer, length):
    data = bytearray()
    while len(data) < length:
        piece = peer.recv(length - len(data))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


def answer(peer, option, kind, data=b""):
    peer.sendall(struct.pack(">QIII", REPLY_MAGIC, option, kind, len(data)) + data)
