# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a front end and the daemon agree on: rings, their pages, features. The guest is
the test's own; stand_in.py is the tapdisk, and tells what it was asked to serve.
"""
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


if __name__ == "__main__":
    harness.main({name.replace("_", "-"): f for name, f in globals().items()
                  if callable(f) and getattr(f, "__module__", "") == "__main__"})
