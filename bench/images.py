# SPDX-License-Identifier: LGPL-2.1-or-later
"""The images that are measured, each of one place."""
import os
import subprocess

import huge

MiB = 1 << 20
SIZE = 512 * MiB
QEMU_NAME = {"vhd": "vpc"}


def quietly(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.PIPE, text=True)


class Images:
    """Raw data is written once; what is to receive first writes is made anew for each
    run, as its subject's own tool makes it; formats that are measured allocated are one
    image for all subjects."""

    def __init__(self, folder, build):
        self.folder, self.build = folder, build
        self.raw = os.path.join(folder, "bench.raw")

    def path(self, name):
        return os.path.join(self.folder, "bench-" + name)

    def fill(self):
        if os.path.exists(self.raw):
            return
        block = os.urandom(16 * MiB)
        with open(self.raw, "wb") as f:
            for _ in range(SIZE // len(block)):
                f.write(block)
            f.flush()
            os.fsync(f.fileno())

    def tool(self, name):
        return os.path.join(self.build, "src/tools", name)

    def get(self, subject, kind, form):
        self.fill()
        if kind == "raw":
            return self.raw
        if kind == "allocated":
            return self.allocated(form, subject.name == "tapdisk")
        if kind.startswith("chain-"):
            return self.chain(int(kind[6:]))
        if kind.startswith("mapped-"):
            return self.mapped(int(kind[7:]))
        path = self.path("%s.%s" % (kind, form))
        if os.path.exists(path):
            os.unlink(path)
        if subject.name == "tapdisk":
            self.ours(path, form, kind == "overlay")
        else:
            self.theirs(path, form, kind == "overlay")
        return path

    def allocated(self, form, ours):
        """One for all; of qcow each has one that its own tool made."""
        path = self.path("allocated-ours." + form)
        if form == "qcow" and not ours:
            path = self.path("allocated-theirs." + form)
        if os.path.exists(path):
            return path
        if form == "qcow" and not ours:
            quietly("qemu-img", "convert", "-f", "raw", "-O", "qcow", self.raw, path)
        else:
            quietly(self.tool("tap-img"), "convert", "-q", "-f", "raw", "-O", form, self.raw,
                    path)
        return path

    def ours(self, path, form, overlay):
        if form == "qcow":
            base = [self.raw] if overlay else []
            quietly(self.tool("qcow-create"), str(SIZE // MiB), path, *base)
            return
        base = ["-b", self.raw, "-F", "raw"] if overlay else []
        quietly(self.tool("tap-img"), "create", "-q", "-f", form, *base, path, str(SIZE))

    def theirs(self, path, form, overlay):
        base = ["-b", self.raw, "-F", "raw"] if overlay else []
        quietly("qemu-img", "create", "-f", QEMU_NAME.get(form, form), *base, path, str(SIZE))

    def chain(self, length):
        """So many overlays over an image that has it all, with a little in each: tables
        above all."""
        below = self.allocated("qcow2", True)
        for n in range(1, length + 1):
            path = self.path("chain-%d" % n)
            if not os.path.exists(path):
                quietly(self.tool("tap-img"), "create", "-q", "-f", "qcow2", "-b", below, "-F",
                        "qcow2", path)
                quietly(self.tool("tap-img"), "bench", "-q", "-f", "qcow2", "-w", "-c", "32",
                        "-s", "64K", "-S", "16M", "-o", str(n << 16), path)
            below = path
        return below

    def mapped(self, gib):
        path = self.path("mapped-%d" % gib)
        if not os.path.exists(path):
            huge.make(path, gib << 30)
        return path
