#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""differential.py [seconds=S] [seed=N] [FORMAT...]: random sequences of what our tools and
QEMU's do to one image, in turns: writes, zeroes, compressed writes, snapshots, other
sizes, copies to other kinds of image, overlays that are committed or rebased. After
each step both read what the model holds, and both checkers find nothing.

Every image is of a random kind, among what both know. A run is known by its seed, which
is printed where it fails: seed=N FORMAT repeats it, with trace=1 and every command. The
programs are named by TAP_IMG
and IMAGE_RANDOM in the environment.
"""
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

KIND = {"vhd": "vpc"}          # as QEMU calls it
K = 1024
NOT_SUPPORTED = 63             # qemu-img check's exit code where it has no check
LEAKS = 3                      # our check's exit code
LEAKY = ("qcow", "vmdk", "vhdx") # discarded grains stay; QEMU leaves gaps in new ones
OPTIONS = {                    # of QEMU; what is not there is what it is by itself
    "qcow": [{}],
    "qcow2": [
        {"compat": ("0.10",), "cluster_size": ("512", "4K", "64K", "2M")},
        {"compat": ("1.1",), "cluster_size": ("512", "4K", "64K"),
         "refcount_bits": ("1", "2", "4", "8", "16", "32", "64"),
         "lazy_refcounts": ("on", "off"), "preallocation": ("off", "metadata")},
        {"extended_l2": ("on",), "cluster_size": ("16K", "64K")},
        {"compression_type": ("zlib", "zstd"), "cluster_size": ("4K", "64K")}],
    "vhd": [{"subformat": ("dynamic", "fixed"), "force_size": ("on",)}],
    "vhdx": [{"subformat": ("dynamic", "fixed"), "block_size": ("1M", "8M"),
              "log_size": ("1M", "2M")}],
    "vdi": [{"static": ("on", "off")}],
    "vmdk": [{"subformat": ("monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse",
                            "twoGbMaxExtentFlat")},
             {"subformat": ("monolithicSparse",), "zeroed_grain": ("on",)}],
}
OURS = {                       # of create, as QEMU would make it too
    "qcow": [{"cluster_size": ("512", "4K", "64K")}],
    "qcow2": [{"cluster_size": ("512", "4K", "64K", "2M")},
              {"extended_l2": ("on",), "cluster_size": ("16K", "64K")}],
    "vhd": [{"subformat": ("dynamic", "fixed")}], "vdi": [{"subformat": ("dynamic", "fixed")}],
    "vhdx": [{"cluster_size": ("1M", "8M"), "log": ("1M",)}],
    "vmdk": [{"cluster_size": ("4K", "64K")}, {"zeroed_grain": ("on",)}],
}
COMPRESS = ("qcow2",)          # what both store compressed clusters in
GROWS = ("qcow2",)             # what both make larger


class Wrong(Exception):
    pass


class Run:
    """One image, and a raw file of what it must hold."""

    def __init__(self, form, seed, folder):
        self.form, self.rnd, self.folder = form, random.Random("%s %s" % (form, seed)), folder
        self.tap_img, self.writer = os.environ["TAP_IMG"], os.environ["IMAGE_RANDOM"]
        self.steps, self.made = [], 0
        self.snapshots = {}
        self.below = None
        self.size = self.rnd.choice((2048, 5000, 9 * K)) * K + self.rnd.choice((0, 0, 1536))
        if form in ("vhd", "vhdx"): # QEMU makes whole megabytes of these
            self.size = self.size // (1 << 20) * (1 << 20)
        self.model = os.path.join(folder, "model")
        with open(self.model, "wb") as f:
            f.truncate(self.size)

    # ---- doing ------------------------------------------------------------------

    def do(self, *command, may=(0,)):
        if "trace=1" in sys.argv:
            print(" ".join(command)[:300], flush=True)
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  timeout=300, cwd=self.folder)
        except subprocess.TimeoutExpired:
            raise Wrong("%s: no end in 300 s" % " ".join(command)) from None
        if done.returncode not in may:
            raise Wrong("%s: %d: %s" % (" ".join(command), done.returncode,
                                        done.stdout.decode(errors="replace")[-600:]))
        return done.returncode

    def kind(self):
        return KIND.get(self.form, self.form)

    def new(self):
        self.made += 1
        suffix = ".vmdk" if self.form == "vmdk" else ""
        return os.path.join(self.folder, "image%d%s" % (self.made, suffix))

    def chosen(self, table):
        row = self.rnd.choice(table[self.form])
        return ",".join("%s=%s" % (key, self.rnd.choice(values)) for key, values in row.items()
                        if len(values) == 1 or self.rnd.random() < 0.8)

    def with_options(self, table):
        options = self.chosen(table)
        return ["-o", options] if options else []

    def make(self):
        self.image = self.new()
        if self.rnd.randrange(2):
            self.do(self.tap_img, "create", "-q", "-f", self.form, *self.with_options(OURS),
                    self.image, str(self.size))
        else:
            self.do("qemu-img", "create", "-q", "-f", self.kind(), *self.with_options(OPTIONS),
                    self.image, str(self.size))

    # ---- steps --------------------------------------------------------------------

    def ours(self):
        more = ["align=4096", "engine=libaio"] if self.rnd.randrange(2) else []
        self.do(self.writer, "%s:%s" % (self.form, self.image), self.model,
                "seed=%d" % self.rnd.randrange(1 << 30), "ops=%d" % self.rnd.choice((20, 300)),
                *more)

    def theirs(self):
        both, image = [], []
        for _ in range(self.rnd.randrange(1, 12)):
            at = self.rnd.randrange(self.size // 512)
            count = min(self.rnd.choice((1, 8, 100, 700)), self.size // 512 - at)
            where = "%d %d" % (at * 512, count * 512)
            if self.rnd.randrange(4):
                image.append("write -P %d %s" % (self.rnd.randrange(256), where))
                both.append(image[-1])
            else:
                image.append("write -z %s%s" % (self.rnd.choice(("", "-u ")), where))
                both.append("write -z " + where)
        self.qemu_io(self.kind(), self.image, image)
        self.qemu_io("raw", self.model, both)

    def qemu_io(self, form, path, lines):
        self.do("qemu-io", "-f", form, *(word for line in lines for word in ("-c", line)), path)

    def copy(self):
        """To an image of another kind, by either tool, compressed now and then."""
        new, packed = self.new(), []
        if self.form in COMPRESS and self.rnd.randrange(2):
            packed = ["-c"]
        if self.rnd.randrange(2):
            self.do(self.tap_img, "convert", "-q", *packed, "-f", self.form, "-O", self.form,
                    *self.with_options(OURS), self.image, new)
        else:
            options = self.with_options(OPTIONS)
            packed = [] if "preallocation" in str(options) else packed
            self.do("qemu-img", "convert", "-q", *packed, "-f", self.kind(), "-O", self.kind(),
                    *options, self.image, new)
        self.forget()
        self.image = new

    def forget(self):
        """Snapshots and what is below belong to the image that was left."""
        for model in self.snapshots.values():
            os.unlink(model)
        self.snapshots, self.below = {}, None

    def snapshot(self):
        tool, form = self.tool()
        if self.snapshots and self.rnd.randrange(2):
            name = self.rnd.choice(sorted(self.snapshots))
            if self.rnd.randrange(2):
                self.do(tool, "snapshot", "-f", form, "-a", name, self.image) \
                    if tool == self.tap_img else self.do(tool, "snapshot", "-a", name, self.image)
                shutil.copy(self.snapshots[name], self.model)
                self.size = os.path.getsize(self.model) # as it was then
            else:
                self.do(tool, "snapshot", *(["-f", form] if tool == self.tap_img else []), "-d",
                        name, self.image)
                os.unlink(self.snapshots.pop(name))
            return
        name = "s%d" % len(self.steps)
        # refcounts of one bit have no room for another owner: that is refused, and harmless
        if self.do(tool, "snapshot", *(["-f", form] if tool == self.tap_img else []), "-c", name,
                   self.image, may=(0, 1)):
            if tool == "qemu-img": # but for a leak
                self.do(tool, "check", "-q", "-r", "leaks", self.image)
            return
        self.snapshots[name] = os.path.join(self.folder, "model-" + name)
        shutil.copy(self.model, self.snapshots[name])

    def tool(self):
        return self.rnd.choice(((self.tap_img, self.form), ("qemu-img", self.kind())))

    def grow(self):
        if self.below:
            return
        tool, form = self.tool()
        size = self.size + self.rnd.choice((512, 64 * K, 1000 * K))
        # of version 2 snapshots do not know their size: that is refused
        if self.do(tool, "resize", "-q", "-f", form, self.image, str(size),
                   may=(0, 1) if self.snapshots else (0,)):
            return
        self.size = size
        os.truncate(self.model, self.size)

    def overlay(self):
        if self.below or self.snapshots:
            return
        tool, form = self.tool()
        new, below = self.new(), self.image
        self.do(tool, "create", "-q", "-f", form, "-b", below, "-F", form, new)
        self.image, self.below = new, below

    def commit(self):
        if not self.below or self.snapshots:
            return
        tool, form = self.tool()
        self.do(tool, "commit", "-q", "-f", form, self.image)
        self.image, self.below = self.below, None

    def rebase(self):
        """Onto nothing: what is below is copied."""
        if not self.below or self.snapshots:
            return
        tool, form = self.tool()
        self.do(tool, "rebase", *(["-q"] if tool == self.tap_img else []), "-f", form, "-b", "",
                self.image)
        self.below = None

    # ---- judging ------------------------------------------------------------------

    def look(self):
        self.do("qemu-img", "compare", "-q", "-f", self.kind(), "-F", "raw", self.image,
                self.model)
        self.do(self.tap_img, "compare", "-q", "-f", self.form, "-F", "raw", self.image,
                self.model)
        self.do("qemu-img", "check", "-q", "-f", self.kind(), self.image,
                may=(0, NOT_SUPPORTED) if self.form != "vmdk" else (0, 1, NOT_SUPPORTED))
        self.do(self.tap_img, "check", "-q", "-f", self.form, self.image,
                may=(0, LEAKS) if self.form in LEAKY else (0,))
        for name, model in self.snapshots.items():
            got = os.path.join(self.folder, "got")
            self.do("qemu-img", "convert", "-l", "snapshot.name=" + name, "-f", self.kind(), "-O",
                    "raw", self.image, got)
            # QEMU's has the size of the image as it is now
            self.do("cmp", "-n", str(min(map(os.path.getsize, (got, model)))), got, model)
            self.do(self.tap_img, "compare", "-q", "-s", "%s:%s,snapshot=%s" % (
                    self.form, self.image, name), "raw:" + model)

    def run(self, until):
        steps = [self.ours] * 4 + [self.theirs] * 4 + [self.copy]
        if self.form == "qcow2":
            steps += [self.snapshot, self.snapshot, self.grow, self.overlay, self.commit,
                      self.rebase]
        self.make()
        self.look()
        for _ in range(12):
            step = self.rnd.choice(steps)
            self.steps.append(step.__name__)
            step()
            self.look()
            if time.monotonic() > until:
                break


def run_one(form, seed, until):
    with tempfile.TemporaryDirectory(prefix="differential-", dir="/dev/shm") as folder:
        os.environ["BLKTAP_SURVIVOR_DIR"] = os.path.join(folder, "memory")
        run = Run(form, seed, folder)
        try:
            run.run(until)
        except Wrong as e:
            print("FAILED: %s seed=%s, after %s:\n%s" % (form, seed, " ".join(run.steps) or
                                                         "create", e))
            return False
    return True


def main():
    words = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    forms = [word for word in sys.argv[1:] if "=" not in word] or sorted(OPTIONS)
    for program in ("qemu-img", "qemu-io"):
        if not shutil.which(program):
            print("skipped: %s is not installed" % program)
            sys.exit(77)
    seconds = float(words.get("seconds", 60))
    first = int(words.get("seed", os.environ.get("TEST_SEED", random.randrange(1 << 30))))
    start, runs, failed = time.monotonic(), 0, 0
    until = float("inf") if "seed" in words else start + seconds
    while not runs or ("seed" not in words and time.monotonic() < until):
        for form in forms:
            if runs >= len(forms) and time.monotonic() > until:
                break
            failed += not run_one(form, first + runs // len(forms), until)
            runs += 1
    print("differential: %d runs from seed %d on, %d failed" % (runs, first, failed))
    sys.exit(1 if failed else 0)


main()
