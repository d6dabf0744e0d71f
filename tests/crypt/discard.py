#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Discards and zeroes in encrypted clusters: a place that reads as zeroes is noise when it
is decrypted, so no hole is ever made in a cluster that is shown.

`discard.py TAP_IMG TAPDISK NAME`
"""
import os
import subprocess
import sys

here = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(here, "..", "nbd"))
from each import run_each  # noqa: E402
from rig import *  # noqa: E402,F403

CLUSTER = 64 * 1024
SIZE = 4 * MiB
img = None


def tap_img(*words):
    return run(img, *words)


def blocks():
    return os.stat("image").st_blocks * 512


def zero_sectors():
    with open("image", "rb") as file:
        content = file.read()
    return sum(content[i:i + 512] == bytes(512) for i in range(0, len(content), 512))


class Disk:
    """An encrypted image that holds what model does; requests go to both."""

    def __init__(self, format, options, base=None):
        with open("key", "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as key:
            key.write("a key of the suite")
        self.model = bytearray(os.urandom(SIZE))
        with open("plain", "wb") as file:
            file.write(self.model)
        self.spec = format + ":image,key-file=key"
        if os.path.exists("image"):
            os.unlink("image")
        how = ["-o", "key-file=key," + options]
        if base:
            with open("base", "wb") as file:
                file.write(base)
            tap_img("create", "-q", "-f", format, *how, "-b", "base", "-F", "raw", "image")
            tap_img("convert", "-q", "-n", "raw:plain", self.spec)
        else:
            tap_img("convert", "-q", "-f", "raw", "-O", format, *how, "plain", "image")
        self.zero_sectors = zero_sectors()

    def __enter__(self):
        self.tapdisk = Tapdisk(0, spec=self.spec)
        self.peer = Peer(self.tapdisk.__enter__()).go()
        return self

    def __exit__(self, *why):
        self.peer.close()
        self.tapdisk.__exit__(*why)

    def ask(self, command, at, length, flags=0):
        error, _ = self.peer.command(command, at, length, flags)
        assert not error, "error %d" % error

    def zeroes(self, at, length, flags=0):
        self.ask(ZEROES, at, length, flags)
        self.model[at:at + length] = bytes(length)

    def settle(self):
        """What was dropped is given back behind a flush."""
        self.ask(FLUSH, 0, 0)

    def reads(self, at=0, length=SIZE):
        for pos in range(at, at + length, MiB):
            n = min(MiB, at + length - pos)
            assert self.peer.read(pos, n) == self.model[pos:pos + n], "at %d" % pos


def again(disk):
    """Opened by others it reads the same, and nothing is wrong with it."""
    with open("plain", "wb") as file:
        file.write(disk.model)
    tap_img("compare", "-q", disk.spec, "raw:plain")
    code = subprocess.run([img, "check", "-q", disk.spec], timeout=WAIT).returncode
    assert code in (0, 3), "it is damaged" # 3: space is lost


@test
def parts_stay_as_they_are():
    for format, options in ("qcow2", "encryption=luks,iter-time=0"), \
            ("qcow", "encryption=aes,weak=on,cluster_size=64K"):
        with Disk(format, options) as disk:
            before = blocks()
            for at, length in (0, 512), (CLUSTER + 4096, 8192), (3 * CLUSTER - 512, 1024):
                disk.ask(TRIM, at, length)
            disk.settle()
            disk.reads()
            assert blocks() >= before, "a hole was made in what is shown"
        again(disk)


@test
def whole_clusters_are_freed_and_read_as_zeroes():
    with Disk("qcow2", "encryption=luks,iter-time=0") as disk:
        before = blocks()
        disk.ask(TRIM, 8 * CLUSTER, 16 * CLUSTER)
        disk.model[8 * CLUSTER:24 * CLUSTER] = bytes(16 * CLUSTER)
        disk.settle()
        disk.reads()
        wait_for("16 clusters are given back", lambda: blocks() <= before - 16 * CLUSTER)
        # their places are used again, for something else: nothing of it is seen elsewhere
        fresh = os.urandom(4 * CLUSTER)
        disk.peer.write(10 * CLUSTER, fresh)
        disk.model[10 * CLUSTER:14 * CLUSTER] = fresh
        disk.reads()
    again(disk)


@test
def zeroes_in_parts_are_written_encrypted():
    for format, options in ("qcow2", "encryption=luks,iter-time=0"), \
            ("qcow", "encryption=aes,weak=on,cluster_size=64K"):
        with Disk(format, options) as disk:
            before = blocks()
            for at, length in (512, 512), (CLUSTER + 4096, 3 * 4096), (5 * CLUSTER - 1024, 2048):
                disk.zeroes(at, length)
            disk.settle()
            disk.reads()
            assert blocks() >= before, "a hole was made in what is shown"
        assert zero_sectors() <= disk.zero_sectors, "data lie there as zeroes"
        again(disk)


@test
def zeroes_over_an_image_below_hide_it():
    base = os.urandom(SIZE)
    for format, options in ("qcow2", "encryption=luks,iter-time=0"), \
            ("qcow", "encryption=aes,weak=on,cluster_size=64K"):
        with Disk(format, options, base) as disk:
            for flags in 0, NO_HOLE:
                disk.zeroes((4 + flags) * CLUSTER, 3 * CLUSTER, flags)
                disk.zeroes((20 + flags) * CLUSTER + 512, 2 * CLUSTER, flags)
            disk.settle()
            disk.reads()
            # whatever a discard does, it brings no bytes of the place to light
            disk.ask(TRIM, 40 * CLUSTER, 4 * CLUSTER)
            got = disk.peer.read(40 * CLUSTER, 4 * CLUSTER)
            assert got in (bytes(4 * CLUSTER), bytes(disk.model[40 * CLUSTER:44 * CLUSTER])), \
                "a discard shows something else"
            disk.model[40 * CLUSTER:44 * CLUSTER] = got
        again(disk)


def main_here():
    global img
    img, Tapdisk.binary = map(os.path.abspath, sys.argv[1:3])
    run_each(tests, sys.argv[3:])


if __name__ == "__main__":
    main_here()
