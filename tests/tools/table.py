#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table of formats in README.md, cell by cell, done with tap-img and tapdisk.

`table.py TAP_IMG TAPDISK PLUGIN-FOLDER README`: what a cell says can be done is done
with a real image, and what it says cannot be done is asked for, and must be refused in
one clear line. A row of the table that is not known here fails, and so does one of ours
that the table lacks.
"""
import os
import shutil
import subprocess
import sys
import tempfile

here = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(here, "..", "nbd"))
from rig import *  # noqa: E402,F403

COLUMNS = ["format", "read", "write", "create", "overlay", "snapshots", "check", "discard",
           "encryption", "compression", "resize"]
SIZE = 4 * MiB
img = plugins = None


def tap_img(*words, code=0):
    done = subprocess.run([img, words[0], "--plugins", plugins, *words[1:]], text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=WAIT)
    if code is not None and done.returncode != code:
        raise AssertionError("tap-img %s: exit code %d, not %d\n%s%s" % (
            " ".join(words), done.returncode, code, done.stdout, done.stderr))
    return done


def refused(*words, lines=1):
    done = tap_img(*words, code=None)
    assert 0 < done.returncode < 128, "tap-img %s: exit code %d, not refused\n%s" % (
        " ".join(words), done.returncode, done.stderr)
    assert done.stderr.count("\n") == lines and len(done.stderr) > 20, \
        "tap-img %s: no clear line: %s" % (" ".join(words), done.stderr)


def noise(name, seed):
    """SIZE bytes: noise, zeroes, text, noise."""
    pad = b"".join(b"line %d of some text %d\n" % (i, seed) for i in range(50000))[:MiB]
    with open(name, "wb") as f:
        f.write(os.urandom(MiB) + bytes(MiB) + pad + os.urandom(MiB))
    return name


def same(spec, raw):
    tap_img("compare", "-q", spec, "raw:" + raw)


def blocks():
    """What the files of the folder take on disk."""
    return sum(os.stat(name).st_blocks for name in os.listdir(".") if name.startswith("image"))


class Row:
    """What is done for each column, with images made by tap-img."""

    def __init__(self, format, options="", size=SIZE):
        self.format, self.options = format, options
        self.spec = format + ":image"

    def clear(self):
        for name in os.listdir("."):
            if name.startswith("image"):
                os.unlink(name)

    def how(self):
        return ["-o", self.options] if self.options else []

    def make(self, raw):
        self.clear()
        tap_img("convert", "-f", "raw", "-O", self.format, *self.how(), raw, "image")

    # each returns nothing, or raises

    def read(self, yes):
        self.make("one")
        tap_img("info", self.spec)
        tap_img("convert", "--force", "-O", "raw", self.spec, "out")
        same(self.spec, "one")
        assert open("out", "rb").read(SIZE) == open("one", "rb").read(), "other content"

    def write(self, yes):
        self.make("one")
        if not yes:
            return refused("convert", "-n", "raw:two", self.spec)
        tap_img("convert", "-n", "raw:two", self.spec)
        same(self.spec, "two")

    def create(self, yes):
        self.clear()
        words = ["create", "-q", "-f", self.format, *self.how(), "image", str(SIZE)]
        if not yes:
            return refused(*words)
        tap_img(*words)
        tap_img("info", self.spec)

    def overlay(self, yes):
        self.clear()
        words = ["create", "-q", "-f", self.format, *self.how(), "-b", "one", "-F", "raw",
                 "image"]
        if not yes:
            return refused(*words)
        tap_img(*words)
        same(self.spec, "one")

    def snapshots(self, yes):
        self.make("one")
        if not yes:
            return refused("snapshot", "-c", "s", self.spec)
        tap_img("snapshot", "-c", "s", self.spec)
        tap_img("convert", "-n", "raw:two", self.spec)
        same(self.spec + ",snapshot=s", "one")
        tap_img("snapshot", "-a", "s", self.spec)
        same(self.spec, "one")
        tap_img("snapshot", "-d", "s", self.spec)

    def check(self, yes):
        self.make("one")
        if yes:
            tap_img("check", self.spec)
        else:
            tap_img("check", self.spec, code=63)
            refused("check", self.spec)

    def discard(self, yes):
        self.make("one")
        before = blocks()
        self.trim(yes)
        if yes:
            assert blocks() < before - MiB // 512, "%d blocks of %d are still there" % (
                blocks(), before)

    def trim(self, yes):
        options = ["--plugins", plugins]
        with Tapdisk(0, *options, spec=self.spec) as disk:
            peer = Peer(disk).go()
            offered = bool(peer.flags & 1 << 5)
            assert offered == yes, "discard is %soffered" % ("" if offered else "not ")
            if yes:
                assert peer.command(TRIM, 0, SIZE)[0] == 0, "TRIM failed"
                assert peer.command(FLUSH)[0] == 0, "FLUSH failed"
                data = peer.read(0, MiB)
                assert data == bytes(MiB) or data == open("one", "rb").read(MiB), \
                    "what is discarded reads as something else"
            peer.close()

    def encryption(self, said):
        self.clear()
        if not said:
            refused("create", "-f", self.format, "-o", "encryption=on", "image", str(SIZE))
            return
        with open("key", "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as key:
            key.write("a secret")
        how = {"LUKS": "encryption=luks,iter-time=0", "AES": "encryption=aes,weak=on"}[said]
        tap_img("convert", "-q", "-f", "raw", "-O", self.format, "-o", how + ",key-file=key",
                "one", "image")
        tap_img("compare", "-q", self.format + ":image,key-file=key", "raw:one")
        tap_img("compare", "-q", self.format + ":image", "raw:one", code=2)
        self.clear()

    def compression(self, said):
        if said == "write":
            self.clear()
            tap_img("convert", "-c", "-f", "raw", "-O", self.format, *self.how(), "one", "image")
            same(self.spec, "one")
            assert blocks() < 2.6 * MiB / 512, "it is as large as ever"
        else:
            refused("convert", "-c", "-f", "raw", "-O", self.format, *self.how(), "one", "new")
        assert not os.path.exists("new")

    def resize(self, yes):
        self.make("one")
        if not yes:
            return refused("resize", self.spec, "+1M")
        tap_img("resize", self.spec, "+1M")
        same(self.spec, "one")
        assert '"virtual-size": %d' % (SIZE + MiB) in tap_img("info", "--json", self.spec).stdout


def refused_to_write(row, yes):
    """No disk that could be told to discard comes of it."""
    assert not yes
    row.make("one")
    disk = Tapdisk(0, spec=row.spec)
    assert disk.process.wait(WAIT) == 1 and "can be read, not written" in disk.said(), \
        disk.said()
    shutil.rmtree(disk.folder)


class Raw(Row):
    def create(self, yes):
        super().create(yes)
        assert os.stat("image").st_size == SIZE


class Stream(Row):
    """Written once, from first to last: by convert."""

    def discard(self, yes):
        refused_to_write(self, yes)

    def compression(self, said):
        assert said == "write", said
        self.make("one")
        assert blocks() < 2.6 * MiB / 512, "it is as large as ever"


class Made(Row):
    """What only others make."""

    def __init__(self, format, kind):
        super().__init__(format)
        self.spec = format + ":image.vmdk"
        self.kind = kind

    def make(self, raw):
        self.clear()
        run(sys.executable, os.path.join(here, "..", "vmdk", "make_esx.py"), self.kind, raw,
            "image.vmdk")

    def create(self, yes):
        assert not yes, "this test knows of no way to create it"

    overlay = create

    def discard(self, yes):
        refused_to_write(self, yes)

    def compression(self, said):
        assert said == "no", said


class Served(Row):
    """Across the network: on a tapdisk that serves a raw file."""

    def __init__(self):
        super().__init__("nbd")
        self.server = None

    def make(self, raw):
        self.clear()
        self.stop()
        shutil.copy(raw, "image")
        self.server = Tapdisk(image=os.path.abspath("image"))
        self.server.ready()
        self.spec = "nbd:" + self.server.uri

    def stop(self):
        if self.server:
            self.server.__exit__(None, None, None)
        self.server = None

    def create(self, yes):
        assert not yes
        refused("create", "-f", "nbd", "nbd://localhost/x", str(SIZE))

    def overlay(self, yes):
        assert not yes
        refused("create", "-f", "nbd", "-b", "one", "-F", "raw", "nbd://localhost/x")

    def compression(self, said):
        self.make("one")
        refused("convert", "-c", "-n", "raw:one", self.spec)

    def encryption(self, yes):
        assert not yes
        refused("create", "-f", "nbd", "-o", "encryption=on", "nbd://localhost/x", str(SIZE))


class Memory(Row):
    """It ends with its tapdisk, so it is spoken to by NBD."""

    def __init__(self):
        super().__init__("ram")
        self.spec = "ram:table,size=%d" % SIZE

    def make(self, raw):
        pass

    def write(self, yes):
        assert yes
        data = open("one", "rb").read(MiB)
        with Tapdisk(0, spec=self.spec) as disk:
            peer = Peer(disk).go()
            peer.write(0, data)
            assert peer.read(0, MiB) == data
            peer.close()

    read = write

    def discard(self, yes):
        self.trim(yes)

    def compression(self, said):
        assert said == "no", said
        refused("convert", "-c", "-n", "raw:one", self.spec, lines=2) # one says: volatile


ROWS = {
    "raw": Raw("raw"),
    "qcow": Row("qcow"),
    "qcow2": Row("qcow2"),
    "VMDK sparse": Row("vmdk"),
    "VMDK sparse, split": Row("vmdk", "subformat=twoGbMaxExtentSparse"),
    "VMDK flat": Row("vmdk", "subformat=monolithicFlat"),
    "VMDK flat, split": Row("vmdk", "subformat=twoGbMaxExtentFlat"),
    "VMDK stream": Stream("vmdk", "subformat=streamOptimized"),
    "VMDK COWD": Made("vmdk", "cowd"),
    "VMDK seSparse": Made("vmdk", "sesparse"),
    "VHD dynamic": Row("vhd"),
    "VHD fixed": Row("vhd", "subformat=fixed"),
    "VHDX dynamic": Row("vhdx"),
    "VHDX fixed": Row("vhdx", "subformat=fixed"),
    "VDI dynamic": Row("vdi"),
    "VDI fixed": Row("vdi", "subformat=fixed"),
    "NBD": Served(),
    "RAM": Memory(),
}


def table(path):
    """[(row, {column: cell})]"""
    with open(path, encoding="utf-8") as f:
        lines = [[cell.strip() for cell in line.strip().strip("|").split("|")]
                 for line in f if line.startswith("| ")]
    begin = next(i for i, line in enumerate(lines) if line == COLUMNS)
    rows = []
    for line in lines[begin + 1:]:
        if len(line) != len(COLUMNS):
            break
        rows.append((line[0], dict(zip(COLUMNS[1:], line[1:]))))
    return rows


def cell(row, column, said):
    words = {"compression": ("write", "read", "no"),
             "encryption": ("LUKS", "AES", "no")}.get(column, ("yes", "no"))
    assert said in words, "%r is none of %s" % (said, ", ".join(words))
    if column == "compression":
        getattr(row, column)(said)
    else:
        getattr(row, column)({"yes": True, "no": False}.get(said, said))


def main():
    global img, plugins
    img, Tapdisk.binary, plugins, readme = map(os.path.abspath, sys.argv[1:])
    rows, wrong = table(readme), 0
    with tempfile.TemporaryDirectory(prefix="table-") as folder:
        os.chdir(folder)
        os.mkdir("memory", 0o700)
        os.environ["BLKTAP_SURVIVOR_DIR"] = folder + "/memory"
        noise("one", 1)
        noise("two", 2)
        for name, cells in rows:
            row = ROWS.pop(name, None)
            if not row:
                wrong += 1
                print("not ok: %s: this test has no such row" % name)
                continue
            for column, said in cells.items():
                try:
                    cell(row, column, said)
                except Exception as problem:  # pylint: disable=broad-except
                    wrong += 1
                    print("not ok: %s, %s: %s: %s" % (name, column, said, problem))
            if isinstance(row, Served):
                row.stop()
        os.chdir("/")
    for name in ROWS:
        wrong += 1
        print("not ok: README.md's table has no row", name)
    print("%s: %d rows" % ("not ok" if wrong else "ok", len(rows)))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
