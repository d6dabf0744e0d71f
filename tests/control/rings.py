# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a front end and the daemon agree on: rings, their pages, features. The guest is
the test's own; stand_in.py is the tapdisk, and tells what it was asked to serve.
"""
import os

import harness
from harness import wait_for
from xen import STAND_IN, host
from xenstore import Vbd

PROTOCOLS = (None, "native", "x86_32-abi", "x86_64-abi")


def publish(vbd, nodes):
    """The guest's nodes are these and no others; it is Initialised."""
    with vbd.store.lock:
        old = [path for path in vbd.store.nodes if path.startswith(vbd.front + "/")
               and path.rpartition("/")[2] not in ("backend", "backend-id", "state")]
    for path in old:
        vbd.store.remove(path)
    vbd.guest(nodes | {"state": 3})


def ring_nodes(folder, first, pages):
    refs = {f"{folder}ring-ref{i}": first + i for i in range(pages)} if pages > 1 \
        else {f"{folder}ring-ref": first}
    return refs | {f"{folder}event-channel": first + 1}


def rings(count, pages, protocol=None, old=False):
    """As Linux writes them; old: with the node that came before ring-page-order."""
    nodes = {} if protocol is None else {"protocol": protocol}
    if pages > 1:
        nodes |= {"num-ring-pages": pages} if old else \
            {"ring-page-order": pages.bit_length() - 1}
    if count == 1:
        return nodes | ring_nodes("", 8, pages)
    nodes["multi-queue-num-queues"] = count
    for i in range(count):
        nodes |= ring_nodes(f"queue-{i}/", 8 + 100 * i, pages)
    return nodes


def served(count, pages):
    return [{"ring-refs": [8 + 100 * i + n for n in range(pages)], "event-channel": 9 + 100 * i}
            for i in range(count)]


def begin_anew(vbd):
    vbd.guest({"state": 6})
    vbd.wait_state(6)
    vbd.guest({"state": 1})
    vbd.wait_state(2)


def every_agreement_on_rings_reaches_tapdisk():
    with host(STAND_IN) as (d, store):
        vbd = Vbd(store, f"aio:{d.folder}/img,queues=4")
        vbd.wait_state(2)
        offer = [vbd.get(key) for key in ("multi-queue-max-queues", "max-ring-page-order",
                                          "max-ring-pages")]
        assert offer == ["4", "4", "16"], offer
        for n, protocol in enumerate(PROTOCOLS):
            for count in (1, 2, 4):
                for pages in (1, 2, 16):
                    publish(vbd, rings(count, pages, protocol, old=n % 2))
                    vbd.wait_state(4)
                    got = d.ctl("info", vbd.name, "--json").json()["xen"]
                    assert got["rings"] == served(count, pages), got
                    assert got["ring-order"] == pages.bit_length() - 1, got
                    assert got["protocol"] == (protocol or "native"), got
                    begin_anew(vbd)
        vbd.close()
        wait_for("its end", lambda: not d.disks())


def refused(vbd, nodes, node, text=""):
    publish(vbd, nodes)
    vbd.wait_state(6)
    error = vbd.get("error")
    assert f"{vbd.front}/{node}" in error and text in error, error
    vbd.guest({"state": 1})
    vbd.wait_state(2)


def rings_that_were_not_offered_are_refused():
    with host(STAND_IN) as (d, store):
        vbd = Vbd(store, f"aio:{d.folder}/img,queues=2")
        vbd.wait_state(2)
        refused(vbd, rings(3, 1), "multi-queue-num-queues", '"3"')
        refused(vbd, rings(1, 1) | {"multi-queue-num-queues": 0}, "multi-queue-num-queues")
        refused(vbd, rings(1, 1) | {"multi-queue-num-queues": "two"}, "multi-queue-num-queues")
        refused(vbd, rings(1, 1) | {"multi-queue-num-queues": 2}, "queue-0/event-channel")
        for gone in ("queue-1/ring-ref", "queue-0/event-channel"):
            nodes = rings(2, 1)
            del nodes[gone]
            refused(vbd, nodes, gone)
            refused(vbd, rings(2, 1) | {gone: "-1"}, gone, "-1")
        refused(vbd, rings(2, 4) | {"queue-1/ring-ref3": "x"}, "queue-1/ring-ref3")
        refused(vbd, rings(1, 32), "ring-page-order", '"5"')
        refused(vbd, rings(1, 32, old=True), "num-ring-pages", '"32"')
        refused(vbd, rings(1, 1) | {"num-ring-pages": 3}, "num-ring-pages", "3")
        refused(vbd, rings(1, 1) | {"ring-page-order": 1}, "ring-ref0")
        assert d.ctl("info", vbd.name, "--json").json()["xen"] is None
        publish(vbd, rings(2, 2))  # and it can still be served
        vbd.wait_state(4)
        vbd.close()
        wait_for("its end", lambda: not d.disks())


def what_xen_blkback_has_offered_is_not_taken_away():
    """Before Xen 4.19 a guest may have chosen by its offer before we came."""
    with host(STAND_IN) as (d, store):
        vbd = Vbd(store, f"aio:{d.folder}/img", kind="vbd")
        vbd.set(**{"multi-queue-max-queues": 3, "state": 2, "max-ring-page-order": 4})
        vbd.set(blktap=1)
        wait_for("our offer", lambda: vbd.get("sectors"))
        assert vbd.get("multi-queue-max-queues") == "3"
        publish(vbd, rings(3, 2))
        vbd.wait_state(4)
        assert len(d.ctl("info", vbd.name, "--json").json()["xen"]["rings"]) == 3
        vbd.close()
        wait_for("its end", lambda: not d.disks())


# key of the specification: its node's value, and what of xen-connect changes with it
SWITCHES = {
    "feature-flush-cache=off": ("0", {"flush-cache": False}),
    "feature-barrier=off": ("0", {"barrier": False}),
    "feature-discard=off": ("0", {"discard": False}),
    "feature-persistent=on": ("1", {"persistent": True}),
    "feature-max-indirect-segments=32": ("32", {"indirect": 32}),
    "feature-max-indirect-segments=0": ("0", {"indirect": 0}),
    "sector-size=4096": ("4096", {"sector-size": 4096}),
    "physical-sector-size=4096": ("4096", {}),
    "max-ring-page-order=0": ("0", {}),
    "multi-queue-max-queues=3": ("3", {}),
    "poll=100": (None, {"poll": 100}),
    "data=map": (None, {"data": "map"}),
}


def each_feature_can_be_switched():
    with host(STAND_IN) as (d, store):
        plain = Vbd(store, f"aio:{d.folder}/img")
        plain.wait_state(2)
        publish(plain, rings(1, 1) | {"feature-persistent": 1})
        plain.wait_state(4)
        usual = d.ctl("info", plain.name, "--json").json()["xen"]
        assert not usual["persistent"] and usual["indirect"] == 256 and \
            usual["sector-size"] == 512 and usual["flush-cache"] and usual["barrier"] and \
            usual["discard"] and usual["poll"] == 0 and usual["data"] == "auto", usual
        nodes = {key.partition("=")[0] for key, (value, _) in SWITCHES.items() if value}
        for n, (key, (value, change)) in enumerate(SWITCHES.items()):
            vbd = Vbd(store, f"aio:{d.folder}/img{n},{key}", 8 + n)
            vbd.wait_state(2)
            name = key.partition("=")[0]
            assert vbd.get(name) == value, (key, vbd.get(name))
            same = nodes - {name} - ({"physical-sector-size"} if name == "sector-size" else set())
            for node in same:
                assert vbd.get(node) == plain.get(node), (key, node, vbd.get(node))
            publish(vbd, rings(1, 1) | {"feature-persistent": 1})
            vbd.wait_state(4)
            got = d.ctl("info", vbd.name, "--json").json()["xen"]
            assert got == usual | {"domid": 8 + n} | change, (key, got)
            if name == "feature-persistent":  # it takes two
                begin_anew(vbd)
                publish(vbd, rings(1, 1))
                vbd.wait_state(4)
                assert not d.ctl("info", vbd.name, "--json").json()["xen"]["persistent"]
            vbd.close()
        refused = Vbd(store, f"aio:{d.folder}/img,feature-barrier=maybe", 90)
        refused.wait_state(2)
        assert "feature-barrier=maybe" in refused.get("hotplug-error")
        refused.close()
        plain.close()
        wait_for("their end", lambda: not d.disks())


def a_disk_has_whole_sectors_of_any_size():
    with host() as (d, store):
        for size, key, nodes in (
                (16 << 20, "", ("32768", "512", "512")),
                (16 << 20, ",sector-size=4096", ("32768", "4096", "4096")),
                ((16 << 20) + 2048, ",sector-size=4096", ("32768", "4096", "4096")),
                (16 << 20, ",physical-sector-size=4096", ("32768", "512", "4096")),
                ((16 << 20) + 2048, ",physical-sector-size=4096", ("32772", "512", "512"))):
            vbd = Vbd(store, "aio:" + d.image("img", size) + key)
            vbd.wait_state(2)
            got = tuple(map(vbd.get, ("sectors", "sector-size", "physical-sector-size")))
            assert got == nodes, (size, key, got)
            vbd.close()
            wait_for("its end", lambda: not d.disks())


def cdroms_and_read_only_disks_say_so():
    with host() as (d, store):
        image = d.image("img", 8 << 20)
        for device, removable, mode, info in (("disk", 0, "w", "0"), ("disk", 0, "r", "4"),
                                              ("cdrom", 1, "r", "7"), ("disk", 1, "w", "2")):
            vbd = Vbd(store, "aio:" + image, mode=mode, more={"device-type": device,
                                                              "removable": removable})
            vbd.wait_state(2)
            assert vbd.get("info") == info, vbd.get("info")
            assert vbd.get("feature-flush-cache") == str(int(mode == "w"))
            vbd.close()
            wait_for("its end", lambda: not d.disks())


def a_guest_sees_its_disk_grow():
    with host(STAND_IN) as (d, store):
        vbd = Vbd(store, f"aio:{d.folder}/img")
        vbd.wait_state(2)
        publish(vbd, rings(1, 1))
        vbd.wait_state(4)
        seen = store.version
        assert d.ctl("resize", vbd.name, str(16 << 20)).status == 0
        assert vbd.get("sectors") == "32768" and vbd.get("state") == "4"
        assert store.version >= seen + 2  # state 4 is written again: the guest looks then
        seen = store.version
        assert d.ctl("resize", vbd.name, str(16 << 20)).status == 0
        assert store.version == seen
        vbd.close()
        wait_for("its end", lambda: not d.disks())
    with host() as (d, store):  # and a real one, to whom nobody is connected yet
        image = d.image("img", 8 << 20)
        vbd = Vbd(store, "aio:" + image)
        vbd.wait_state(2)
        assert d.ctl("resize", vbd.name, "16M").status == 0
        assert vbd.get("sectors") == "32768" and vbd.get("state") == "2"
        assert os.stat(image).st_size == 16 << 20
        for size, text in (("8M", "above its 16777216"), ("16M", "above"), ("big", "no size")):
            run = d.ctl("resize", vbd.name, size)
            assert run.status == 1 and text in run.err, run.err
        vbd.close()
        wait_for("its end", lambda: not d.disks())


if __name__ == "__main__":
    harness.main({name.replace("_", "-"): f for name, f in globals().items()
                  if callable(f) and getattr(f, "__module__", "") == "__main__"})
