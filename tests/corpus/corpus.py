#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""corpus.py TRY TAP-IMG FORMAT [FOLDER]: makes the odd images of a format, and has each
opened. Each opens or is refused with one line that names it; what is damaged is told;
time and memory are bounded. With FOLDER the images stay there."""
import os
import subprocess
import sys
import tempfile

import images


def write(path, data):
    """Without the zeroes, which most of it is."""
    with open(path, "wb") as f:
        for at in range(0, len(data), 4096):
            part = data[at:at + 4096]
            if part.count(0) < len(part):
                f.seek(at)
                f.write(part)
        f.truncate(len(data))


def make_with(tap_img, folder):
    raw = os.path.join(folder, "raw")
    write(raw, bytes(range(256)) * 20 + bytes(images.DISK - 5120))

    def make(form, options):
        path = os.path.join(folder, "base")
        subprocess.run([tap_img, "convert", "-q", "-f", "raw", "-O", form, "-o", options, raw,
                        path], check=True)
        with open(path, "rb") as f:
            data = f.read()
        os.unlink(path)
        return data
    return make


def corpus(form, tap_img, folder):
    """Writes them; {path: what must come of it}."""
    want = {}
    write(os.path.join(folder, "flat"), bytes(images.DISK))
    for name, image, verdict in images.FORMATS[form](make_with(tap_img, folder)):
        path = os.path.join(folder, name)
        write(path, image.data)
        want[path] = verdict
    return want


def main():
    try_, tap_img, form = sys.argv[1:4]
    with tempfile.TemporaryDirectory(prefix="corpus-", dir="/dev/shm") as scratch:
        folder = os.path.abspath(sys.argv[4]) if len(sys.argv) > 4 else scratch
        os.makedirs(folder, exist_ok=True)
        want = corpus(form, tap_img, folder)
        done = subprocess.run([try_, form, *want], stdout=subprocess.PIPE, text=True)
        got, bad = {}, done.returncode
        slowest = most = 0
        for line in done.stdout.splitlines():
            path, verdict, ms, kib = line.rsplit(" ", 3)
            got[path] = verdict
            slowest, most = max(slowest, int(ms)), max(most, int(kib))
        for path, verdict in want.items():
            is_ = got.get(path, "not told")
            told = "damaged" if verdict == "damaged" and is_ == "refused" else is_
            if verdict and told != verdict:
                print("%s is %s, should be %s" % (path, is_, verdict), file=sys.stderr)
                bad = 1
        counts = ", ".join("%d %s" % (list(got.values()).count(v), v)
                           for v in ("good", "damaged", "refused"))
        print("%s: %d images: %s; slowest %d ms, most %d KiB" % (
            form, len(want), counts, slowest, most))
        sys.exit(1 if bad else 0)


main()
