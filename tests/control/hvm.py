# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Disks of HVM guests: what QEMU is told of them, and the socket that it is told of. The
test is the toolstack, and QEMU.
"""
import os
import signal
import stat

import harness
from harness import alive, listens, wait_for
from xen import host, pid_of
from xenstore import HOST, Vbd


def domain(store, domid, kind="hvm"):
    store.write({f"/libxl/{domid}/type": kind})


def hvm_disk(d, store, params, domid=7, base="vbd3", mode="w", **more):
    """Offered; what the toolstack finds then, and the path of the socket for it."""
    vbd = Vbd(store, params, domid, kind=base, mode=mode,
              more={"dev": "xvda", "device-type": "disk"} | {k.replace("_", "-"): v
                                                             for k, v in more.items()})
    if base == "vbd":
        vbd.set(blktap=1)
    wait_for("its offer", lambda: vbd.get("hotplug-status") == "connected")
    return vbd, vbd.get("physical-device-path"), f"{d.run_dir}/tapdisk/{vbd.name}.nbd"


def an_hvm_guests_disk_is_served_until_its_driver_comes():
    with host() as (d, store):
        image = d.image("img", fill=5)
        domain(store, 7)
        for base, says in (("vbd3", "%s"), ("vbd", "nbd+unix:///?socket=%s")):
            told = []  # whether the path was there before what the toolstack waits for
            back = f"{HOST}/backend/{base}/7/51712/"
            store.watchers.append(lambda path: path == back + "hotplug-status" and told.append(
                store.read(back + "physical-device-path")))
            vbd, node, path = hvm_disk(d, store, "aio:" + image, base=base)
            assert node == says % path and told[0] == node, (node, told)
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
            assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
            qemu = harness.Nbd(path)
            assert qemu.read(0, 512) == bytes([5]) * 512
            qemu.write(512, b"x" * 512)
            qemu.flush()
            with open(image, "r+b") as f:
                assert f.read(1024)[512:] == b"x" * 512
                f.seek(512)
                f.write(bytes([5]) * 512)
            vbd.close()  # with QEMU there
            wait_for("its end", lambda: not d.disks())
            assert not os.path.exists(path)
            qemu.close()


def only_disks_that_qemu_will_open_have_a_socket():
    with host() as (d, store):
        image = d.image("img")
        running = f"{HOST}/device-model/7/state"
        for kind, nodes, mode, more, wanted in (
                ("hvm", {}, "w", {}, True),
                ("hvm", {running: "running"}, "w", {}, False),
                ("pvh", {}, "w", {}, False),
                ("pv", {}, "w", {}, False),
                ("hvm", {}, "r", {}, False),
                ("hvm", {}, "r", {"dev": "sda"}, True),
                ("hvm", {}, "r", {"device_type": "cdrom"}, True)):
            store.remove(running)
            domain(store, 7, kind)
            store.write(nodes)
            vbd, node, path = hvm_disk(d, store, "aio:" + image, mode=mode, **more)
            what = (kind, nodes, mode, more, node)
            assert (node == path) == listens(path) == wanted and (node or wanted is False), what
            vbd.close()
            wait_for("its end", lambda: not d.disks())
            assert not os.path.exists(path)


def an_hvm_guest_that_migrates_has_no_emulated_disk_there():
    with host() as (d, store):
        image = "aio:" + d.image("img")
        for domid in 7, 8:
            domain(store, domid)
            store.write({f"/local/domain/{domid}/vm": "/vm/uuid-of-the-guest"})
        here, node, path = hvm_disk(d, store, image, 7)
        assert node == path
        there, node, path = hvm_disk(d, store, image, 8)
        assert not node and not os.path.exists(path)
        here.close()
        there.close()
        wait_for("their end", lambda: not d.disks())


def sockets_of_killed_tapdisks_go():
    with host() as (d, store):
        domain(store, 7)
        image = d.image("img")
        vbd, _, path = hvm_disk(d, store, "aio:" + image)
        d.kill()  # it serves on, and a new daemon knows it
        d.start()
        assert listens(path) and vbd.get("physical-device-path") == path
        os.kill(pid_of(d, vbd.name), signal.SIGKILL)
        wait_for("its death", lambda: d.disk(vbd.name)["state"] == "dead")
        assert not os.path.exists(path)
        vbd.close()
        wait_for("its end", lambda: not d.disks())

        vbd, _, path = hvm_disk(d, store, "aio:" + image)
        pid = pid_of(d, vbd.name)
        d.kill()
        os.kill(pid, signal.SIGKILL)
        wait_for("its death", lambda: not alive(pid))
        assert os.path.exists(path)
        vbd.remove()
        d.start()
        assert not os.listdir(d.run_dir + "/tapdisk")


if __name__ == "__main__":
    harness.main({name.replace("_", "-"): f for name, f in globals().items()
                  if callable(f)})
