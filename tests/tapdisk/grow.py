#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A disk grows while two clients use it: they see slow requests, no error, and what they
have written. Usage: grow.py TAPDISK TAP_IMG FORMAT DRIVER"""
import os
import random
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "nbd"))
from rig import *

Tapdisk.binary, tap_img, fmt, driver = sys.argv[1:]
PART = 4 * MiB   # of each client
TIMES = 5        # that it grows
LEAKS = 3        # what check says of space that is wasted


class Client(threading.Thread):
    """Writes, reads and flushes in its part of the disk until it is stopped."""

    def __init__(self, disk, at, seed):
        super().__init__(daemon=True)
        self.peer, self.at, self.random = Peer(disk).go(), at, random.Random(seed)
        self.model, self.count, self.error, self.stopped = bytearray(PART), 0, None, False

    def step(self):
        n = self.random.randrange(1, 129) * 512
        at = self.random.randrange(0, PART - n + 1) // 512 * 512
        what = self.random.random()
        if what < 0.6:
            data = bytes([self.random.randrange(1, 256)]) * n
            self.peer.write(self.at + at, data)
            self.model[at:at + n] = data
        elif what < 0.9:
            assert self.peer.read(self.at + at, n) == self.model[at:at + n], (at, n)
        else:
            assert not self.peer.command(FLUSH)[0]
        self.count += 1

    def run(self):
        try:
            while not self.stopped:
                self.step()
        except Exception as error:
            self.error = error

    def moves_on(self):
        before = self.count
        wait_for("requests to end", lambda: self.error or self.count > before + 3)
        if self.error:
            raise self.error

    def stop(self):
        self.stopped = True
        self.join()
        if self.error:
            raise self.error


def grows(disk, control, clients):
    """TIMES times; whatever is new is there at once. Returns its size at last."""
    size = 2 * PART
    for step in range(1, TIMES + 1):
        size += step * 3 * MiB
        assert ask_control(control, "resize", size=str(size))["size"] == size
        peer = Peer(disk).go()
        assert peer.size == size, (peer.size, size)
        assert peer.read(size - 65536, 65536) == bytes(65536)
        peer.write(size - 4096, bytes([step]) * 4096)
        peer.close()
        for client in clients:
            client.moves_on()
    return size


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end")) # and clean up
    seed = int(os.environ.get("TEST_SEED", random.randrange(1 << 32)))
    print("seed", seed)
    folder = tempfile.mkdtemp(prefix="tapdisk-grow-")
    try:
        image, raw, control = folder + "/image", folder + "/raw", folder + "/control"
        run(tap_img, "create", "-q", "-f", fmt, image, str(2 * PART))
        with Tapdisk(2 * PART, "--control", control, spec=driver + ":" + image) as disk:
            clients = [Client(disk, i * PART, seed + i) for i in range(2)]
            for client in clients:
                client.start()
            try:
                size = grows(disk, control, clients)
            finally:
                for client in clients:
                    client.stop()
        if fmt != "raw": # what the old tables took may be wasted, and no more
            check = subprocess.run([tap_img, "check", driver + ":" + image],
                                   capture_output=True, text=True, timeout=WAIT)
            assert check.returncode in (0, LEAKS), check.stdout + check.stderr
        run(tap_img, "convert", "-q", "-f", fmt, "-O", "raw", image, raw)
        with open(raw, "rb") as f:
            data = f.read()
        assert len(data) == size, (len(data), size)
        for client in clients:
            assert data[client.at:client.at + PART] == client.model, client.at
        at = 2 * PART
        for step in range(1, TIMES + 1):
            at += step * 3 * MiB
            assert data[at - 4096:at] == bytes([step]) * 4096, step
    finally:
        shutil.rmtree(folder)


main()
