# SPDX-License-Identifier: LGPL-2.1-or-later
"""The section "formats": every image format beside qemu-nbd's same one and our own raw;
long chains; an image of 1 TiB. What is promised of them."""
import statistics

import subjects

NEW = ("qcow2", "vmdk", "vhd", "vhdx", "vdi")   # qcow has its rows in the first section
PLACES = ("tmpfs", "disk")
OURS = ("tapdisk",)
SLOW = 10 # theirs is slow at first writes if our raw writes so many times faster


def qemu_modes(place):
    """The two that were best in each place."""
    return ("qemu-nbd io_uring", "qemu-nbd native" if place == "disk" else "qemu-nbd threads")


def allocated(place, form, side):
    return "%s %s allocated, 4 KiB random %s, depth 32" % (place, form, side)


def first_writes(place, form, kind, depth):
    return "%s %s %s, first writes, depth %d" % (place, form, kind, depth)


def chained(place, length):
    return "%s qcow2 chain of %d, 4 KiB random read, depth 32" % (place, length)


MAPPED = ( # title, GiB, options, what is read before it counts
    ("%s qcow2 of 1 GiB, mapped, 4 KiB random read, depth 32", 1, "", 1),
    ("%s qcow2 of 1 TiB, mapped, 4 KiB random read, depth 32", 1024, "", 1),
    ("%s qcow2 of 1 TiB, mapped, cache=256M, 4 KiB random read, depth 32", 1024,
     ",cache=256M", 6),
)


def plan(add, random_work):
    for place in PLACES:
        everybody = OURS + qemu_modes(place)
        for form in NEW:
            for side in ("read", "write"):
                add(allocated(place, form, side), place, "allocated", random_work(side, 32),
                    everybody, form, "formats")
            for kind in ("standalone", "overlay") if form == "qcow2" else ("standalone",):
                for depth in (1, 32):
                    add(first_writes(place, form, kind, depth), place, kind,
                        dict(random_work("write", depth), first=True), everybody, form,
                        "formats")
        for length in (1, 30):
            add(chained(place, length), place, "chain-%d" % length,
                dict(random_work("read", 32), warm_s=1), OURS + qemu_modes(place)[:1], "qcow2",
                "formats")
        for title, gib, options, warm in MAPPED:
            add(title % place, place, "mapped-%d" % gib,
                dict(random_work("read", 32), warm_s=warm, size=gib << 30), OURS, "qcow2",
                "formats", options)


def chain_opens(tapdisk, images):
    """From exec to answering, for a chain of 30: ms."""
    path = images.path("socket")
    command = tapdisk.command(images.chain(30), "qcow2", path, "disk")
    ready = []
    for _ in range(9):
        with subjects.Server(command, path) as server:
            ready.append(server.ready_ms)
    return statistics.median(ready)


# ---- what must be reached ------------------------------------------------------------

def judge(bars):
    for place in PLACES:
        for form in ("qcow",) + NEW:
            judge_allocated(bars, place, form)
            judge_first_writes(bars, place, form)
        bars.ratio(chained(place, 30) + ": 0.8 of a chain of 1",
                   bars.value.get((chained(place, 30), "tapdisk")),
                   bars.value.get((chained(place, 1), "tapdisk")), 0.8)
        small, large, cached = (bars.value.get((row[0] % place, "tapdisk")) for row in MAPPED)
        bars.ratio(MAPPED[1][0] % place + ": 0.5 of 1 GiB", large, small, 0.5)
        bars.ratio(MAPPED[2][0] % place + ": 0.9 of 1 GiB", cached, small, 0.9)
    bars.limit("chain of 30: exec to ready", bars.rest.get("chain_ready_ms"), 50, "ms")


def judge_allocated(bars, place, form):
    wanted = 0.9 if form == "qcow2" else 0.85
    for side in ("read", "write"):
        title = allocated(place, form, side)
        ours = bars.value.get((title, "tapdisk"))
        raw = "%s raw, 4 KiB random %s, depth 32" % (place, side)
        bars.ratio("%s: %g of raw" % (title, wanted), ours,
                   bars.value.get((raw, "tapdisk")), wanted)
        if form == "qcow2":
            bars.ratio(title + ": 1.5x qemu-nbd", ours, bars.best(title, "qemu"), 1.5)


def judge_first_writes(bars, place, form):
    raw = bars.value.get(("%s raw, 4 KiB random write, depth 32" % place, "tapdisk"))
    for kind in ("standalone", "overlay") if form in ("qcow", "qcow2") else ("standalone",):
        for depth in (1, 32):
            title = first_writes(place, form, kind, depth)
            ours, theirs = bars.value.get((title, "tapdisk")), bars.best(title, "qemu")
            if form == "qcow" and ours is None and place == "tmpfs" and depth == 1:
                continue # not planned
            wanted = 1
            if form == "qcow2":
                wanted = 1.2 if place == "tmpfs" else 1
            elif theirs and raw and depth == 32 and theirs * SLOW < raw:
                wanted = 5
            bars.ratio("%s: %gx qemu-nbd" % (title, wanted), ours, theirs, wanted)
