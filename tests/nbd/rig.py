# SPDX-License-Identifier: LGPL-2.1-or-later
"""A tapdisk to test and a plain NBD client that can also misbehave.

A test is a function with @test; `FILE.py TAPDISK NAME` runs it. Exit code 77
says that a program it needs is not there.
"""
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

MiB = 1 << 20
OPTION_MAGIC = 0x49484156454F5054
REPLY_MAGIC = 0x0003E889045565A9
EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED, LIST_META, SET_META = (
    1, 2, 3, 5, 6, 7, 8, 9, 10)
ACK, SERVER, REP_INFO, META = 1, 2, 3, 4
ERR_UNSUP, ERR_POLICY, ERR_INVALID, ERR_UNKNOWN, ERR_TOO_BIG = (
    0x80000001, 0x80000002, 0x80000003, 0x80000006, 0x80000009)
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO = 1, 2, 4, 8, 16
EPERM, EIO, EINVAL, ENOSPC = 1, 5, 22, 28
WAIT = 100 # seconds: nothing here takes one, on a machine with nothing else to do

tests = {}


def test(function):
    tests[function.__name__.replace("_", "-")] = function
    return function


def skip(reason):
    print("skipped: " + reason)
    sys.exit(77)


def need(*programs):
    for program in programs:
        if not shutil.which(program):
            skip(program + " is not installed")


def run(*command, ok=True, timeout=WAIT):
    """Runs a client; returns what it printed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=timeout, text=True, errors="replace")
    if ok and done.returncode:
        raise AssertionError("%s: exit code %d\n%s" % (
            " ".join(command), done.returncode, done.stdout))
    if not ok and not done.returncode:
        raise AssertionError("%s: succeeded\n%s" % (" ".join(command), done.stdout))
    return done.stdout


def wait_for(what, condition):
    end = time.monotonic() + WAIT
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("waited in vain: " + what)
        time.sleep(0.02)


def listens(path):
    """Whether somebody does: a socket has its name before it can be connected to."""
    with socket.socket(socket.AF_UNIX) as peer:
        try:
            peer.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True


class Tapdisk:
    """with Tapdisk(size) as disk: ... It must end cleanly when told to."""
    binary = None
    queues = os.environ.get("QUEUES", "") and ",queues=" + os.environ["QUEUES"]

    def __init__(self, size=64 * MiB, *options, address=None, image=None, spec=None):
        self.folder = tempfile.mkdtemp(prefix="tapdisk-nbd-")
        self.path = os.path.join(self.folder, "s")
        self.image = image or os.path.join(self.folder, "disk.raw")
        self.address = address or "unix:" + self.path
        self.size = size
        self.uri = "nbd+unix:///?socket=" + self.path
        if not image and not spec:
            with open(self.image, "wb") as f:
                f.truncate(size)
        self.log = os.path.join(self.folder, "log")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [self.binary, "--disk", spec or "aio:" + self.image + self.queues,
                 "--nbd", self.address, *options], stderr=log)

    def ready(self):
        wait_for("tapdisk listens", lambda: "listening on" in self.said() or
                 self.process.poll() is not None)
        assert self.process.poll() is None, self.said()
        return self

    def said(self):
        with open(self.log, errors="replace") as f:
            return f.read()

    def memory(self, field="VmRSS"):
        """Resident bytes."""
        with open("/proc/%d/status" % self.process.pid) as f:
            for line in f:
                if line.startswith(field):
                    return int(line.split()[1]) * 1024
        raise AssertionError("no " + field)

    def sanitized(self):
        with open(self.binary, "rb") as f:
            return b"__asan_init" in f.read()

    def content(self, offset=0, length=-1):
        with open(self.image, "rb") as f:
            f.seek(offset)
            return f.read(length)

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        code = self.process.wait(WAIT)
        assert code == 0, "tapdisk: exit code %d\n%s" % (code, self.said())

    def clean_up(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        try:
            return self.ready()
        except BaseException:
            self.clean_up()
            raise

    def __exit__(self, kind, value, trace):
        try:
            if kind is not None:
                sys.stderr.write(self.said())
            elif self.process.poll() is None:
                self.stop()
            else: # a test that told it to end
                assert self.process.returncode == 0, self.said()
        finally:
            self.clean_up()


def ask_control(path, method, **params):
    """One question to a tapdisk that was started with --control, and its result."""
    wait_for("the control socket", lambda: listens(path))
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(WAIT)
        control.connect(path)
        control.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method,
                                    "params": params}).encode() + b"\n")
        return json.loads(control.makefile().readline())["result"]


class Peer:
    """One connection, spoken to in bytes."""

    def __init__(self, disk, flags=3, greet=True):
        self.structured = False
        self.cookie = 0
        if disk.address.startswith("unix:"):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(WAIT)
            self.socket.connect(disk.path)
        else:
            host, port = disk.tcp
            self.socket = socket.create_connection((host, port), timeout=WAIT)
        if greet:
            magic, option, self.handshake = struct.unpack(">8sQH", self.get(18))
            assert magic == b"NBDMAGIC" and option == OPTION_MAGIC
            self.put(struct.pack(">I", flags))

    def put(self, data):
        self.socket.sendall(data)

    def get(self, length):
        data = bytearray()
        while len(data) < length:
            piece = self.socket.recv(length - len(data))
            if not piece:
                raise EOFError("the server hung up after %d of %d bytes" % (
                    len(data), length))
            data += piece
        return bytes(data)

    def hung_up(self):
        """True when the server closes the connection, whatever it says before."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionError:
            pass
        return True

    def close(self):
        self.socket.close()

    # negotiation

    def option(self, option, data=b""):
        self.put(struct.pack(">QII", OPTION_MAGIC, option, len(data)) + data)

    def reply(self, option):
        magic, to, kind, length = struct.unpack(">QIII", self.get(20))
        assert magic == REPLY_MAGIC and to == option, (hex(magic), to)
        return kind, self.get(length)

    def ask(self, option, data=b""):
        """All replies to an option: [(type, data) ...]."""
        self.option(option, data)
        replies = [self.reply(option)]
        while replies[-1][0] not in (ACK,) and not replies[-1][0] & 0x80000000:
            replies.append(self.reply(option))
        return replies

    @staticmethod
    def name_and_infos(name=b"", infos=()):
        return (struct.pack(">I", len(name)) + name +
                struct.pack(">H%dH" % len(infos), len(infos), *infos))

    @staticmethod
    def contexts(*queries, name=b""):
        data = struct.pack(">I", len(name)) + name + struct.pack(">I", len(queries))
        for query in queries:
            data += struct.pack(">I", len(query)) + query
        return data

    def go(self, structured=False, allocation=False, name=b""):
        if structured or allocation:
            assert self.ask(STRUCTURED)[-1][0] == ACK
            self.structured = True
        if allocation:
            assert self.ask(SET_META, self.contexts(b"base:allocation"))[-1][0] == ACK
        replies = self.ask(GO, self.name_and_infos(name, (3,)))
        assert replies[-1][0] == ACK, replies
        for kind, data in replies[:-1]:
            info, = struct.unpack(">H", data[:2])
            if info == 0:
                self.size, self.flags = struct.unpack(">QH", data[2:])
        return self

    # requests

    def send(self, command, offset=0, length=0, flags=0, data=b"", magic=0x25609513):
        self.cookie += 1
        self.put(struct.pack(">IHHQQI", magic, flags, command, self.cookie, offset,
                             length) + data)
        return self.cookie

    def answer(self):
        """(cookie, error, data or extents) of the next reply."""
        magic, = struct.unpack(">I", self.get(4))
        if magic == 0x67446698:
            error, cookie = struct.unpack(">IQ", self.get(12))
            return cookie, error, None
        assert magic == 0x668E33EF, hex(magic)
        flags, kind, cookie, length = struct.unpack(">HHQI", self.get(16))
        assert flags == 1, "the only chunk is the last"
        body = self.get(length)
        if kind == 0:
            assert not body
            return cookie, 0, b""
        if kind == 1:
            return cookie, 0, (struct.unpack(">Q", body[:8])[0], body[8:])
        if kind == 5:
            assert body[:4] == struct.pack(">I", 1)
            return cookie, 0, list(struct.iter_unpack(">II", body[4:]))
        assert kind == 0x8001, kind
        error, text = struct.unpack(">IH", body[:6])
        assert len(body) == 6 + text and error
        return cookie, error, None

    def command(self, *args, **more):
        """One request and its reply: (error, data)."""
        cookie = self.send(*args, **more)
        got, error, data = self.answer()
        assert got == cookie
        return error, data

    def read(self, offset, length, flags=0):
        error, data = self.command(READ, offset, length, flags)
        if error:
            raise OSError(error, "NBD read")
        if not self.structured:
            return self.get(length)
        at, data = data
        assert at == offset
        return data

    def write(self, offset, data, flags=0):
        error, _ = self.command(WRITE, offset, len(data), flags, data)
        if error:
            raise OSError(error, "NBD write")


def pattern(length, seed=1):
    """Bytes that differ from block to block."""
    out = b"".join(struct.pack("<QQ", seed, i) for i in range(length // 16 + 1))
    return out[:length]


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end")) # and clean up
    Tapdisk.binary = sys.argv[1]
    for name in sys.argv[2:] or tests:
        tests[name]()
        print("ok", name)
