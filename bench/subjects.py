# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who is measured: NBD servers started for one measurement each, and fio on the
file itself as the limit of what a server could reach."""
import json
import os
import shutil
import socket
import subprocess
import time

TICK = os.sysconf("SC_CLK_TCK")


class Unavailable(Exception):
    """This subject cannot do that here; the report says why."""


def connects(path):
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
            return True
        except OSError:
            return False


def cpu_seconds(pid):
    with open("/proc/%d/stat" % pid) as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def resident_bytes(pid):
    with open("/proc/%d/statm" % pid) as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Server:
    """with Server(command, socket): an NBD server that answers."""

    def __init__(self, command, path):
        self.command, self.path = command, path

    def __enter__(self):
        if os.path.exists(self.path):
            os.unlink(self.path)
        start = time.monotonic()
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while not connects(self.path):
            if self.process.poll() is not None:
                said = self.process.stderr.read().decode(errors="replace").strip()
                raise Unavailable(said.splitlines()[-1] if said else "it ended")
            if time.monotonic() > start + 10:
                self.__exit__(None, None, None)
                raise Unavailable("not ready in 10 s")
            time.sleep(0.0002)
        self.ready_ms = (time.monotonic() - start) * 1000
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stderr.close()


FORMATS = ("raw", "qcow", "qcow2", "vmdk", "vhd", "vhdx", "vdi")


class Tapdisk:
    name = "tapdisk"
    formats = FORMATS

    def __init__(self, build, engine=None):
        self.program = os.path.join(build, "src/tapdisk/tapdisk")
        self.options = ["--engine", engine] if engine else []

    def available(self):
        return os.path.exists(self.program)

    def command(self, image, form, path, place):
        form, comma, options = form.partition(",")
        driver = "aio" if form == "raw" else form
        return [self.program, "--disk",
                "%s:%s%s" % (driver, image.replace(",", "\\,"), comma + options),
                "--nbd", "unix:" + path, *self.options]


class QemuNbd:
    formats = FORMATS

    def __init__(self, aio):
        self.aio = aio
        self.name = "qemu-nbd " + aio

    def available(self):
        return shutil.which("qemu-nbd")

    def command(self, image, form, path, place):
        return ["qemu-nbd", "--persistent", "--format",
                "vpc" if form == "vhd" else form, "--cache=none",
                "--aio=" + self.aio, "--socket", path, image]


class Nbdkit:
    name = "nbdkit file"
    formats = ("raw",)

    def available(self):
        return shutil.which("nbdkit")

    def command(self, image, form, path, place):
        """Without O_DIRECT it cannot do; on a disk it is told not to keep pages."""
        cache = ["cache=none"] if place == "disk" else []
        return ["nbdkit", "--foreground", "--unix", path, "file", image, *cache]


class Direct:
    """fio itself on the file: no server between."""
    name = "direct io_uring"
    formats = ("raw",)

    def available(self):
        return True

    def command(self, *_):
        return None


def fio(target, work, seconds, size, extra=()):
    """Runs one load; returns IOPS, bytes/s, mean and 99th latency (us)."""
    command = ["fio", "--name=bench", "--output-format=json", "--rw=" + work["rw"],
               "--bs=%d" % work["bs"], "--iodepth=%d" % work["depth"],
               "--size=%d" % size, "--runtime=%dms" % (seconds * 1000), "--randrepeat=0",
               *target, *extra]
    warm = work.get("warm_s", 0)
    if warm:
        command += ["--ramp_time=%d" % warm, "--norandommap",
                    "--random_generator=tausworthe64"]
    if work.get("jobs"): # each with a connection of its own
        command += ["--numjobs=%d" % work["jobs"], "--group_reporting"]
    if not work.get("first"): # first writes end when every block has been written
        command.append("--time_based")
    limit = seconds * 5 + 15 + warm
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=limit, text=True)
    except subprocess.TimeoutExpired:
        raise Unavailable("it hung: no end in %g s" % limit) from None
    start = done.stdout.find("{")
    if done.returncode or start < 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Unavailable("fio: " + (said[0] if said else "exit code %d" % done.returncode))
    job = json.loads(done.stdout[start:])["jobs"][0]
    side = job["read" if "read" in work["rw"] else "write"]
    return {
        "iops": side["iops"], "bytes_per_s": side["bw_bytes"],
        "mean_us": side["lat_ns"]["mean"] / 1000,
        "p99_us": side["clat_ns"].get("percentile", {}).get("99.000000", 0) / 1000,
        "requests": side["total_ios"],
    }


def measure(subject, image, form, work, place, seconds, size, folder):
    command = subject.command(image, form, os.path.join(folder, "socket"), place)
    if command is None:
        return fio(["--ioengine=io_uring", "--direct=1", "--filename=" + image], work,
                   seconds, size)
    with Server(command, os.path.join(folder, "socket")) as server:
        before = cpu_seconds(server.process.pid)
        result = fio(["--ioengine=nbd", "--uri=nbd+unix:///?socket=" + server.path], work,
                     seconds, size)
        spent = cpu_seconds(server.process.pid) - before
        result["server_cpu_us"] = 1e6 * spent / max(1, result["requests"])
        return result


def barriers(subject, image, form, work, seconds, size, folder):
    """Waits for the disk (fdatasync, fsync) that the server made, counted by
    strace in a run of its own, and the requests it answered meanwhile."""
    if not shutil.which("strace"):
        raise Unavailable("strace is not installed")
    command = subject.command(image, form, os.path.join(folder, "socket"), "disk")
    with Server(command, os.path.join(folder, "socket")) as server:
        log = os.path.join(folder, "strace")
        tracer = subprocess.Popen(
            ["strace", "-f", "-o", log, "-e", "trace=fdatasync,fsync", "-p",
             str(server.process.pid)], stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE)
        tracer.stderr.readline() # attached
        result = fio(["--ioengine=nbd", "--uri=nbd+unix:///?socket=" + server.path], work,
                     seconds, size)
        tracer.terminate()
        tracer.wait(10)
        tracer.stderr.close()
    with open(log) as f:
        count = sum("sync(" in line for line in f)
    return {"barriers": count, "requests": result["requests"],
            "requests_per_barrier": result["requests"] / count if count else None}
