#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""mutate.py TAP_IMG [seconds=S] [seed=N]: encrypted qcow2 images with a few bytes changed,
in the header, the LUKS header and the tables. Whatever that makes of one: it is refused in
words, or opens; nobody crashes, hangs, or changes what he only reads; and what our check
calls sound can be written, and holds it then.

The fuzz drivers' inputs have no room for the key material of LUKS. A run is known by its
seed, which is printed where it fails: seed=N repeats that one.
"""
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time

PATIENCE = 60
DISK = 256 << 10
ODD = (0, 1, 0x7f, 0x80, 0xff)
img = None


class Wrong(Exception):
    pass


def run(*words):
    """Its exit code and its words."""
    try:
        done = subprocess.run([img, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise Wrong("%s: takes more than %d s" % (words, PATIENCE))
    said = done.stdout.decode(errors="replace")
    if done.returncode not in (0, 1, 2, 3, 4) or "ERROR: " in said or "runtime error" in said:
        raise Wrong("%s: exit code %d: %s" % (words, done.returncode, said))
    if done.returncode and not said:
        raise Wrong("%s: exit code %d without a word" % (words, done.returncode))
    return done.returncode, said


def need(*words):
    code, said = run(*words)
    if code:
        raise Wrong("%s: exit code %d: %s" % (words, code, said))


def content(path):
    with open(path, "rb") as file:
        return file.read()


def regions(image):
    """Where something is that matters, as (offset, length)."""
    def number(at, form=">Q"):
        return struct.unpack_from(form, image, at)[0]
    cluster = 1 << number(20, ">I")
    l1, table = number(40), number(48)
    l2 = number(l1) & (1 << 56) - 512
    luks = image.index(b"LUKS\xba\xbe")
    fields = [(0, 112), (112, 120), (l1, 16), (l2, DISK // cluster * 8), (table, 16),
              (number(table), len(image) // cluster * 2)]
    # but for how often a key is hashed: up to a minute is allowed
    fields += [(luks, 164), (luks + 168, 40)]
    for slot in range(2):
        at = luks + 208 + 48 * slot
        fields += [(at, 4), (at + 8, 40)]
    return fields


def change(image, places, rnd):
    for _ in range(rnd.choice((1, 1, 1, 2, 4))):
        at, size = rnd.choice(places)
        at += rnd.randrange(size)
        image[at] = rnd.choice((rnd.choice(ODD), image[at] ^ 1 << rnd.randrange(8)))


def judge(rnd):
    spec = "qcow2:m,key-file=key"
    before = content("m")
    run("info", "-f", "qcow2", "m")
    code, said = run("convert", "--force", "-O", "raw", spec, "out")
    if code and code != 1:
        raise Wrong("convert ends with %d: %s" % (code, said))
    state, _ = run("check", "-f", "qcow2", "m")
    if content("m") != before:
        raise Wrong("what is only read has changed")
    if state in (2, 3):
        state, _ = run("check", "-r", "all", "-f", "qcow2", "m")
    if state or code or os.path.getsize("out") != DISK:
        return
    with open("new", "wb") as file:
        file.write(rnd.randbytes(DISK // 2) + bytes(DISK // 4) + rnd.randbytes(DISK // 4))
    if run("convert", "-n", "-f", "raw", "new", spec)[0]:
        return # encrypted with something else now, or not writable: it was said
    need("compare", "raw:new", spec)
    need("check", "-f", "qcow2", "m")


def main():
    global img
    img = os.path.abspath(sys.argv[1])
    words = dict(word.split("=", 1) for word in sys.argv[2:])
    first = int(words.get("seed", os.environ.get("TEST_SEED", random.randrange(1 << 30))))
    seconds = float(words.get("seconds", 3))
    with tempfile.TemporaryDirectory(prefix="blktap-mutate.") as folder:
        os.chdir(folder)
        os.environ["BLKTAP_SURVIVOR_DIR"] = os.path.join(folder, "memory")
        with open("key", "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write("a passphrase")
        with open("raw", "wb") as file:
            file.write(random.Random(1).randbytes(DISK))
        need("convert", "-f", "raw", "-O", "qcow2", "-o",
             "encryption=luks,key-file=key,iter-time=0,cluster_size=4K", "raw", "good")
        places = regions(content("good"))
        end, runs = time.monotonic() + seconds, 0
        while not runs or ("seed" not in words and time.monotonic() < end):
            seed = first + runs
            rnd = random.Random(seed)
            image = bytearray(content("good"))
            change(image, places, rnd)
            with open("m", "wb") as file:
                file.write(image)
            shutil.rmtree("memory", ignore_errors=True)
            try:
                judge(rnd)
            except Wrong as e:
                print("FAILED: seed=%d: %s" % (seed, e))
                sys.exit(1)
            runs += 1
    print("%d images from seed %d on" % (runs, first))


main()
