#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Survivor memory of images that are not there any more.

`gone.py TAPDISK TAP_IMG`: a tapdisk is killed, its image removed; the next writer of any
other image removes what it left. An image that only got another name keeps what is its.
"""
import ctypes
import os
import sys
import tempfile

here = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(here, "..", "nbd"))
from rig import *  # noqa: E402,F403


def killed(image):
    """What a tapdisk that is killed leaves: the name of its memory."""
    before = set(os.listdir("memory"))
    disk = Tapdisk(0, spec="qcow2:" + image).ready()
    peer = Peer(disk).go()
    peer.write(4096, pattern(65536, 7))
    disk.process.kill()
    disk.process.wait()
    shutil.rmtree(disk.folder)
    left = set(os.listdir("memory")) - before
    assert len(left) == 1, left
    return left.pop()


def handles(path):
    """Whether the file system is one of those, and we may open by its handles."""
    if run("stat", "-f", "-c", "%t", ".").strip() not in (
            "ef53", "58465342", "9123683e", "f2f52010", "1021994"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    room = ctypes.create_string_buffer(8 + 128)
    ctypes.memmove(room, (128).to_bytes(4, sys.byteorder), 4)
    if libc.name_to_handle_at(-100, path.encode(), room, ctypes.byref(ctypes.c_int()), 0):
        return False
    folder = os.open(".", os.O_RDONLY)
    fd = libc.open_by_handle_at(folder, room, os.O_RDONLY)
    os.close(folder)
    if fd >= 0:
        os.close(fd)
    return fd >= 0


def main_here():
    Tapdisk.binary, img = map(os.path.abspath, sys.argv[1:3])
    with tempfile.TemporaryDirectory(prefix="gone-", dir=os.getcwd()) as folder:
        os.chdir(folder)
        os.mkdir("memory", 0o700)
        os.environ["BLKTAP_SURVIVOR_DIR"] = folder + "/memory"
        for name in "one", "two", "three":
            run(img, "create", "-q", "-f", "qcow2", name, "16M")
        if not handles("one"):
            os.chdir("/")
            skip("this file system has no handles, or we may not open by them")
        of_one, of_two = killed("one"), killed("two")
        os.unlink("one")
        os.rename("two", "renamed")
        assert len(os.listdir("memory")) == 2
        said = run(img, "bench", "-w", "-c", "1", "-f", "qcow2", "three")
        assert os.listdir("memory") == [of_two], (os.listdir("memory"), said)
        assert of_one in said and "one, was removed" in said, said
        # what is in use is not looked at: its owner lives, with its image removed
        disk = Tapdisk(0, spec="qcow2:three").ready()
        Peer(disk).go().write(0, pattern(512))
        os.unlink("three")
        run(img, "create", "-q", "-f", "qcow2", "four", "16M")
        run(img, "bench", "-w", "-c", "1", "-f", "qcow2", "four")
        assert len(os.listdir("memory")) == 2, os.listdir("memory")
        disk.stop()
        shutil.rmtree(disk.folder)
        # the renamed one has all that was answered
        with Tapdisk(0, spec="qcow2:renamed") as disk:
            assert Peer(disk).go().read(4096, 65536) == pattern(65536, 7), "it is lost"
        assert not os.listdir("memory"), os.listdir("memory")
        os.chdir("/")
    print("ok")


if __name__ == "__main__":
    main_here()
