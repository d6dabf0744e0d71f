# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A daemon of its own for each test: in a folder of its own, with its own sockets,
cgroups and tapdisks. At the end of a test all of them must be gone; what is
left is counted, and fails the test.
"""
import contextlib
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

BLKTAPCTRL = os.environ["BLKTAPCTRL"]
TAPDISK = os.environ["TAPDISK"]
TAP_CTL = os.environ["TAP_CTL"]
QCOW_CREATE = os.environ["QCOW_CREATE"]
WAIT = 100  # seconds: nothing here takes one, on a machine with nothing else to do


class Skip(Exception):
    pass


def wait_for(what, condition, seconds=WAIT):
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.01)
    return result


def alive(pid):
    """Whether the process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def listens(path):
    """Whether somebody does: a socket has its name before it can be connected to."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True


class Ctl:
    """The result of one run of tap-ctl."""

    def __init__(self, run):
        self.status, self.out, self.err = run.returncode, run.stdout.strip(), run.stderr.strip()

    def json(self):
        assert self.status == 0, self.err
        return json.loads(self.out)


class Nbd:
    """A minimal NBD client: one request at a time, the connection kept."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(WAIT)
        self.sock.connect(path)
        assert self.recv(16) == b"NBDMAGICIHAVEOPT"
        self.recv(2)
        self.sock.sendall(struct.pack(">I", 3))  # fixed newstyle, no zeroes
        self.sock.sendall(b"IHAVEOPT" + struct.pack(">II", 1, 0))
        self.size = struct.unpack(">Q", self.recv(8))[0]
        self.flags = struct.unpack(">H", self.recv(2))[0]

    def recv(self, n):
        data = b""
        while len(data) < n:
            more = self.sock.recv(n - len(data))
            if not more:
                raise ConnectionError("the server hung up")
            data += more
        return data

    def ask(self, kind, offset, length, data=b""):
        self.sock.sendall(struct.pack(">IHHQQI", 0x25609513, 0, kind, 7, offset, length) + data)
        magic, error, cookie = struct.unpack(">IIQ", self.recv(16))
        assert magic == 0x67446698 and cookie == 7
        if error:
            raise OSError(error, "NBD error")
        return self.recv(length) if kind == 0 else b""

    def read(self, offset, length):
        return self.ask(0, offset, length)

    def write(self, offset, data):
        self.ask(1, offset, len(data), data)

    def flush(self):
        self.ask(3, 0, 0)

    def close(self):
        self.sock.close()


class Daemon:
    def __init__(self, folder, cgroup="none"):
        self.folder, self.cgroup = folder, cgroup
        self.tapdisk = TAPDISK
        self.xenstore = None  # the socket of one, or none
        self.options = []
        self.run_dir = os.path.join(folder, "run")
        self.socket = os.path.join(self.run_dir, "control")
        self.log_path = os.path.join(folder, "log")
        self.process = None
        self.pids = set()  # of tapdisks seen

    def start(self, wait=True, adopts=True):
        """adopts: all disks that there are answer it, on a slow machine later than it waits."""
        log = open(self.log_path, "ab")
        xen = {"XENSTORED_PATH": self.xenstore} if self.xenstore else {}
        self.process = subprocess.Popen(
            [BLKTAPCTRL, "--foreground", "--run-dir", self.run_dir, "--tapdisk", self.tapdisk,
             "--cgroup", self.cgroup, *([] if xen else ["--no-xen"]), *self.options],
            env=os.environ | xen, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        if wait:
            wait_for("the daemon", lambda: self.answers() or self.process.poll() is not None)
            assert self.process.poll() is None, self.log()
        if wait and adopts:
            wait_for("the disks", lambda: all(d["state"] != "starting" for d in self.disks()))
        return self

    def answers(self):
        return self.ctl("list").status == 0

    def log(self):
        with open(self.log_path) as f:
            return f.read()

    def ctl(self, *words):
        run = subprocess.run([TAP_CTL, *words, "--socket", self.socket],
                             capture_output=True, text=True, timeout=WAIT, cwd=self.folder)
        return Ctl(run)

    def image(self, name, size=8 << 20, fill=None):
        path = os.path.join(self.folder, name)
        with open(path, "wb") as f:
            if fill is not None:
                f.write(bytes([fill]) * size)
            f.truncate(size)
        return path

    def attach(self, spec, *options):
        """Attaches it with an NBD socket; returns its row of the list."""
        path = os.path.join(self.folder, f"nbd{len(self.pids)}")
        answer = self.ctl("attach", spec, "--nbd", "unix:" + path, "--json", *options).json()
        self.pids.add(answer["pid"])
        answer["path"] = path
        return answer

    def detach(self, *disks):
        for disk in disks:
            run = self.ctl("detach", disk["name"])
            assert run.status == 0, run.err

    def disks(self):
        return self.ctl("list", "--json").json()["disks"]

    def disk(self, name):
        return next((d for d in self.disks() if d["name"] == name), None)

    def kill(self):
        """As if it had crashed."""
        self.process.kill()
        self.process.wait(WAIT)

    def stop(self):
        run = self.ctl("stop", "--all")
        assert run.status == 0, run.err
        assert self.process.wait(WAIT) == 0, self.log()

    def ask(self, *lines, wait=True, pause=0):
        """Sends lines to the control socket as they are; the answers."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(WAIT)
            sock.connect(self.socket)
            data = b""
            try:
                sock.sendall(b"".join(line + b"\n" for line in lines))
                sock.shutdown(socket.SHUT_WR)
                time.sleep(pause)
                while wait and (more := sock.recv(1 << 16)):
                    data += more
            except (BrokenPipeError, ConnectionResetError):
                pass  # it hung up on what it will not read
        return [json.loads(line) for line in data.splitlines()]

    def tapdisks(self):
        """Every tapdisk of this daemon that runs, known or not."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    words = f.read().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            programs = {TAPDISK.encode(), self.tapdisk.encode()}
            if programs & set(words[:2]) and self.folder.encode() in b" ".join(words):
                found.append(int(pid))
        return found

    def left_over(self):
        left = [f"process {pid}" for pid in self.tapdisks() if alive(pid)]
        if os.path.exists(self.run_dir):
            left += [os.path.join(at, f) for at, _, files in os.walk(self.run_dir) for f in files]
            left.append(self.run_dir)
        left += [f"socket {f}" for f in os.listdir(self.folder) if f.startswith("nbd")]
        if self.cgroup.startswith("/") and os.path.exists(self.cgroup):
            left.append("cgroup " + self.cgroup)
        return left

    def clean_up(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in filter(alive, self.tapdisks()):
            os.kill(pid, signal.SIGKILL)
            wait_for("its end", lambda: not alive(pid))
        if self.cgroup.startswith("/") and os.path.exists(self.cgroup):
            for group, _, _ in os.walk(self.cgroup, topdown=False):
                os.rmdir(group)


@contextlib.contextmanager
def daemon(cgroup="none"):
    """Gives a running daemon, and sees to it that nothing is left of it."""
    folder = tempfile.mkdtemp(prefix="blktap-", dir=os.environ.get("TEST_DIR"))
    it = Daemon(folder, cgroup)
    try:
        it.start()
        yield it
        if it.process.poll() is None:
            it.stop()
        left = it.left_over()
        assert not left, f"left over: {left}"
    except BaseException:
        if os.path.exists(it.log_path):
            print("--- the daemon's log:\n" + it.log(), file=sys.stderr)
        raise
    finally:
        it.clean_up()
        shutil.rmtree(folder, ignore_errors=True)


def main(tests):
    """Runs the test that is named on the command line."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end")) # and clean up
    try:
        tests[sys.argv[1]]()
    except Skip as why:
        print(f"skipped: {why}")
        sys.exit(77)
