# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The daemon and xenstore, without Xen: the test is the toolstack and the guest.
Rings are not mapped here; where one is wanted, stand_in.py is the tapdisk.
"""
import contextlib
import itertools
import os
import signal
import subprocess
import time

import harness
from harness import alive, listens, wait_for
from xenstore import Store, Vbd

STAND_IN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "stand_in.py")


@contextlib.contextmanager
def host(tapdisk=None):
    """A daemon and its xenstore."""
    with harness.daemon() as d:
        d.stop()
        store = Store(d.folder)
        store.start()
        d.xenstore = store.path
        d.tapdisk = tapdisk or d.tapdisk
        d.start()
        try:
            yield d, store
        finally:
            store.stop()


def pid_of(d, name):
    return d.disk(name)["pid"]


def a_disk_comes_and_goes():
    with host() as (d, store):
        vbd = Vbd(store, "aio:aio:" + d.image("img", 8 << 20))
        vbd.wait_state(2)
        assert vbd.get("sectors") == "16384" and vbd.get("hotplug-status") == "connected"
        row = d.disk(vbd.name)
        assert row["user"] == "domain 7" and row["state"] == "serving", row
        vbd.close()
        wait_for("its end", lambda: not d.disks())
        assert not alive(row["pid"])


def what_cannot_be_opened_is_told_to_the_toolstack():
    with host() as (d, store):
        vbd = Vbd(store, "aio:/no/such/image")
        vbd.wait_state(2)
        assert "/no/such/image" in vbd.get("hotplug-error"), vbd.get("hotplug-error")
        vbd.close()


def detach_of_a_guests_disk_leaves_other_guests_alone():
    with host() as (d, store):
        vbd, other = Vbd(store, "aio:" + d.image("img")), Vbd(store, "aio:" + d.image("other"), 8)
        vbd.wait_state(2)
        other.wait_state(2)
        refused = d.ctl("detach", vbd.name)
        assert refused.status == 1 and "domain 7" in refused.err, refused.err
        for force in (["--force"], []):
            if not force:  # of a dead one
                os.kill(pid_of(d, vbd.name), signal.SIGKILL)
                wait_for("its death", lambda: d.disk(vbd.name)["state"] == "dead")
            assert d.ctl("detach", vbd.name, *force).status == 0
            # another disk, which may lie where the first one lay in memory
            late = Vbd(store, "aio:" + d.image("late"), 9)
            late.wait_state(2)
            left = pid_of(d, other.name), pid_of(d, late.name)
            vbd.close()
            assert (pid_of(d, other.name), pid_of(d, late.name)) == left
            assert not d.disk(vbd.name) and all(map(alive, left))
            late.close()
            wait_for("its end", lambda: len(d.disks()) == 1)
            vbd.create("aio:" + d.folder + "/img")  # and it can come back
            vbd.wait_state(2)
        vbd.close()
        other.close()
        wait_for("their end", lambda: not d.disks())


def a_disk_that_is_replaced_while_it_is_looked_at_is_begun():
    with host() as (d, store):
        vbd = Vbd(store, "aio:/no/such/image")
        vbd.wait_state(2)
        params = "aio:" + d.image("img")

        def replace():
            if vbd.get("state") == "6":
                store.on_read.clear()
                vbd.remove()
                vbd.create(params)

        store.on_read[vbd.back + "/online"] = replace
        vbd.set(online=0, state=5)
        wait_for("its successor", lambda: not store.on_read)
        wait_for("its start", lambda: vbd.get("hotplug-status") == "connected")
        vbd.wait_state(2)
        vbd.close()
        wait_for("its end", lambda: not d.disks())


def a_new_daemon_knows_whose_disks_there_are():
    with host() as (d, store):
        vbd = Vbd(store, "aio:" + d.image("img"))
        vbd.wait_state(2)
        d.kill()
        d.start()
        assert d.disk(vbd.name)["user"] == "domain 7", d.disk(vbd.name)
        for command in (("detach", vbd.name), ("stop", "--all")):
            refused = d.ctl(*command)
            assert refused.status == 1 and "domain 7" in refused.err, (command, refused.err)
        vbd.close()
        wait_for("its end", lambda: not d.disks())


def a_new_daemon_serves_what_the_nodes_name_now():
    with host() as (d, store):
        old, new = d.image("old"), d.image("new", 16 << 20)
        vbd = Vbd(store, "aio:" + old)
        same = Vbd(store, "aio:" + d.image("same"), 8)
        vbd.wait_state(2)
        same.wait_state(2)
        pid, kept = pid_of(d, vbd.name), pid_of(d, same.name)
        for params, mode in (("aio:" + new, "w"), ("aio:" + new, "r")):
            d.kill()
            vbd.remove()
            vbd.create(params, mode)
            d.start()
            wait_for("another tapdisk", lambda: (row := d.disk(vbd.name)) and
                     row["state"] == "serving" and row["pid"] != pid)
            vbd.wait_state(2)
            row = d.disk(vbd.name)
            assert row["spec"] == params and row["read_only"] == (mode == "r"), row
            assert vbd.get("sectors") == "32768" and not alive(pid)
            pid = row["pid"]
        assert pid_of(d, same.name) == kept
        vbd.close()
        same.close()
        wait_for("their end", lambda: not d.disks())


def names_of_guests_disks_are_not_given_to_others():
    with host() as (d, store):
        image = d.image("img")
        for name in ("vbd-1-2", "vbd-0-51712"):
            run = d.ctl("attach", "aio:" + image, "--name", name)
            assert run.status == 1 and name in run.err and "guest" in run.err, run.err
        disk = d.attach("aio:" + image, "--name", "vbd-1-2-backup")
        d.kill()
        d.start()
        assert d.disk("vbd-1-2-backup")["pid"] == disk["pid"], d.disks()
        assert d.disk("vbd-1-2-backup")["user"] is None
        d.detach(disk)


def disks_without_nodes_are_stopped():
    with host() as (d, store):
        vbd = Vbd(store, "aio:" + d.image("img"))
        vbd.wait_state(2)
        pid = pid_of(d, vbd.name)
        d.kill()
        vbd.remove()
        d.start()
        wait_for("its end", lambda: not d.disks() and not alive(pid))


def cannot_start(d, line):
    """A tapdisk that opens its image for ever."""
    path = os.path.join(d.folder, "cannot-start")
    with open(path, "w") as f:
        f.write("#!/bin/sh\n" + line + "\n")
    os.chmod(path, 0o755)
    d.kill()
    d.tapdisk = path
    d.start()


def a_tapdisk_that_hangs_while_opening_ends_with_its_guest():
    with host() as (d, store):
        cannot_start(d, "while :; do sleep 0.1; done")
        image = d.image("img")
        vbd = Vbd(store, "aio:" + image)
        pid = wait_for("its tapdisk", lambda: d.disk(vbd.name))["pid"]
        vbd.remove()  # as xl destroy does
        wait_for("its end", lambda: not d.disks() and not alive(pid))
        # the same by hand
        store.write({"/local/domain/7/name": "guest7"})
        asked = subprocess.Popen([harness.TAP_CTL, "xen-attach", "guest7",
                                  f"aio:{image},xvda,w", "--socket", d.socket],
                                 stderr=subprocess.PIPE, text=True)
        wait_for("its tapdisk", lambda: d.disk(vbd.name))
        run = d.ctl("xen-detach", "guest7", "xvda")
        assert run.status == 0, run.err
        assert "was removed" in asked.communicate(timeout=harness.WAIT)[1] and asked.returncode == 1
        assert not d.disks() and vbd.get("state") is None


def opening_an_image_takes_so_long_at_most():
    with host() as (d, store):
        d.options = ["--start-limit", "1"]
        cannot_start(d, "while :; do sleep 0.1; done")
        vbd = Vbd(store, "aio:" + d.image("img"))
        vbd.wait_state(2)
        assert "not opened it in 1 s" in vbd.get("hotplug-error"), vbd.get("hotplug-error")
        assert not d.disks() and not d.tapdisks()
        run = d.ctl("attach", "aio:" + d.folder + "/img")
        assert run.status == 1 and "not opened it in 1 s" in run.err, run.err
        vbd.close()


def xenstore_may_start_after_the_daemon():
    with harness.daemon() as d:
        d.stop()
        store = Store(d.folder)
        d.xenstore = store.path
        d.start()
        asked = d.ctl("xen-attach", "7", "aio:/x,xvda,w")
        assert asked.status == 1 and "xenstore: " in asked.err, asked.err
        time.sleep(1.5)  # in vain, once
        store.start()
        vbd = Vbd(store, "aio:" + d.image("img"))
        vbd.wait_state(2)
        asked = d.ctl("xen-attach", "9", "aio:/x,xvda,w")
        assert asked.status == 1 and "no such domain" in asked.err, asked.err
        assert d.log().count("no Xen guests") == 1
        vbd.close()
        wait_for("its end", lambda: not d.disks())
        store.stop()


def a_guest_cannot_fill_the_log():
    with host() as (d, store):
        vbd = Vbd(store, "aio:" + d.image("img"))
        vbd.wait_state(2)
        for n in range(60):
            vbd.ring(event_channel=f"x{n}")
            vbd.wait_state(6)
            vbd.guest({"state": 1})
            vbd.wait_state(2)
            if n == 0:
                assert "event-channel" in d.log() and "event-channel" in vbd.get("error")
        lines = [line for line in d.log().splitlines() if line.startswith(vbd.name)]
        assert len(lines) < 25, "\n".join(lines)
        vbd.close()
        wait_for("its end", lambda: not d.disks())


def ringing(d, store, extra="", domid=7):
    """A disk whose guest is connected to it."""
    vbd = Vbd(store, f"aio:{d.folder}/img{domid}{extra}", domid)
    vbd.wait_state(2)
    vbd.ring()
    vbd.wait_state(4)
    vbd.guest({"state": 4})
    return vbd


def a_guest_connects_and_comes_back():
    with host(STAND_IN) as (d, store):
        vbd = ringing(d, store)
        info = d.ctl("info", vbd.name, "--json").json()["xen"]
        assert info["rings"] == [{"ring-refs": [8], "event-channel": 5}], info
        pid = pid_of(d, vbd.name)
        vbd.guest({"state": 5})  # as a boot loader, before the kernel it has loaded
        vbd.wait_state(5)
        vbd.guest({"state": 6})
        vbd.wait_state(6)
        vbd.guest({"state": 1})
        vbd.wait_state(2)
        vbd.ring(ring_ref=9)
        vbd.wait_state(4)
        assert d.ctl("info", vbd.name, "--json").json()["xen"]["rings"][0]["ring-refs"] == [9]
        assert pid_of(d, vbd.name) == pid
        vbd.close()
        wait_for("its end", lambda: not d.disks())


def a_front_end_begins_anew_without_closing():
    with host(STAND_IN) as (d, store):
        vbd = ringing(d, store)
        pid = pid_of(d, vbd.name)
        seen = []
        watched = store.watch(vbd.back + "/state", seen)
        for ring_ref in (9, 9, 10):  # resumed: a new ring, maybe of the same number
            vbd.heard()  # it has run for a while
            del seen[:]
            vbd.ring(ring_ref=ring_ref)
            wait_for("a new connection", lambda: seen[-1:] == ["4"])
            assert "6" not in seen and "5" not in seen, seen  # it would close at that
            vbd.guest({"state": 4})
        vbd.guest({"state": 1})  # a kernel that another has started
        vbd.wait_state(2)
        vbd.ring(ring_ref=11)
        vbd.wait_state(4)
        assert d.ctl("info", vbd.name, "--json").json()["xen"]["rings"][0]["ring-refs"] == [11]
        assert pid_of(d, vbd.name) == pid
        watched()
        vbd.guest({"state": 4})
        vbd.close()
        wait_for("its end", lambda: not d.disks())


def what_was_offered_once_is_offered_again():
    with host(STAND_IN) as (d, store):
        vbd = ringing(d, store)
        # as if a daemon of another version had offered it
        offered = {"feature-max-indirect-segments": "32", "feature-barrier": "0"}
        vbd.set(**offered)
        for restart in (False, True):
            if restart:
                d.kill()
                d.start()
            vbd.guest({"state": 5})
            vbd.wait_state(5)
            vbd.guest({"state": 6})
            vbd.wait_state(6)
            vbd.guest({"state": 1})
            vbd.wait_state(2)
            assert {key: vbd.get(key) for key in offered} == offered
            vbd.ring()
            vbd.wait_state(4)
            vbd.guest({"state": 4})
        vbd.close()
        wait_for("its end", lambda: not d.disks())


def migrating(store, params):
    """The same guest, from a domain that runs into one that does not yet."""
    store.write({"/local/domain/7/vm": "/vm/uuid-of-the-guest",
                 "/local/domain/8/vm": "/vm/uuid-of-the-guest"})
    there = Vbd(store, params, 8)
    there.wait_state(2)
    return there


def a_domain_destroyed_at_any_state_leaves_nothing():
    def offered(vbd):
        vbd.wait_state(2)

    def publishing(vbd):
        offered(vbd)
        vbd.ring()

    def connected(vbd):
        publishing(vbd)
        vbd.wait_state(4)

    def running(vbd):
        connected(vbd)
        vbd.guest({"state": 4})

    def closing(vbd):
        running(vbd)
        vbd.guest({"state": 5})

    def closed(vbd):
        closing(vbd)
        vbd.wait_state(5)
        vbd.guest({"state": 6})

    def back_again(vbd):
        closed(vbd)
        vbd.wait_state(6)
        vbd.guest({"state": 1})

    def resumed(vbd):
        running(vbd)
        vbd.heard()
        vbd.ring(ring_ref=9)

    def refused(vbd):
        offered(vbd)
        vbd.ring(event_channel="none")

    def being_detached(vbd):
        running(vbd)
        vbd.set(online=0, state=5)

    def destroyed(vbd):  # as xl does it
        vbd.store.remove(vbd.front)
        vbd.set(online=0, state=5)
        vbd.wait_state(6)
        vbd.remove()

    def new(vbd):
        pass

    with host(STAND_IN) as (d, store):
        watches = store.watches()
        states = (new, offered, publishing, connected, running, closing, closed, back_again,
                  resumed, refused, being_detached)
        for domid, (state, end) in enumerate(itertools.product(states, (Vbd.remove, destroyed))):
            vbd = Vbd(store, f"aio:{d.folder}/img", domid + 1)
            state(vbd)
            end(vbd)
            wait_for(f"the end of what was {state.__name__}", lambda: not d.disks())
            assert not d.tapdisks() and store.watches() == watches, state.__name__
            assert not os.listdir(d.run_dir + "/tapdisk"), state.__name__


def a_guest_that_migrates_takes_its_disk_along():
    with host(STAND_IN) as (d, store):
        params = "aio:" + d.image("img")
        here = Vbd(store, params)
        here.wait_state(2)
        here.ring()
        here.wait_state(4)
        here.guest({"state": 4})
        there = migrating(store, params)
        assert d.ctl("info", there.name, "--json").json()["peek"], "opened beside its writer"
        there.ring(ring_ref=9)
        time.sleep(0.5)
        assert there.get("state") == "2" and here.get("state") == "4"
        here.close()
        there.wait_state(4)
        info = d.ctl("info", there.name, "--json").json()
        assert not info["peek"] and info["xen"]["rings"][0]["ring-refs"] == [9], info
        assert len(d.disks()) == 1
        there.close()
        wait_for("its end", lambda: not d.disks())


def a_guest_that_migrates_meets_what_was_written_there():
    with host() as (d, store):
        image = d.image("img")
        here = Vbd(store, "aio:" + image)
        here.wait_state(2)
        there = migrating(store, "aio:" + image)
        assert there.get("sectors") == "16384"
        first = pid_of(d, there.name)
        os.truncate(image, 16 << 20)
        there.ring()
        time.sleep(0.3)
        assert there.get("state") == "2"
        here.close()
        # opened again, for writing; and then there is no Xen to map a ring with
        there.wait_state(6)
        assert there.get("sectors") == "32768" and "/dev/xen" in there.get("error")
        assert pid_of(d, there.name) != first and not alive(first)
        other = d.ctl("attach", "aio:" + image)
        assert other.status == 1 and there.name in other.err, other.err
        there.close()
        wait_for("its end", lambda: not d.disks())


def a_guest_that_comes_from_another_host_waits_for_the_lock():
    with host() as (d, store):
        image = d.image("img")
        there = subprocess.Popen([harness.TAPDISK, "--disk", "aio:" + image, "--nbd",
                                  f"unix:{d.folder}/there"], stderr=subprocess.DEVNULL)
        wait_for("the other host", lambda: listens(d.folder + "/there"))
        store.write({"/local/domain/7/name": "guest"})
        refused = Vbd(store, "aio:" + image)
        refused.wait_state(2)
        assert "in use" in refused.get("hotplug-error")
        refused.close()
        vbd = Vbd(store, "aio:" + image, name="guest--incoming")
        vbd.wait_state(2)
        assert vbd.get("hotplug-status") == "connected" and vbd.get("sectors") == "16384"
        vbd.ring()
        tries = d.log().count("in use by another")
        wait_for("a try", lambda: d.log().count("in use by another") > tries)
        assert vbd.get("state") == "2"
        there.terminate()
        assert there.wait(harness.WAIT) == 0
        vbd.wait_state(6)  # open, and no Xen
        assert "/dev/xen" in vbd.get("error"), vbd.get("error")
        vbd.close()
        wait_for("its end", lambda: not d.disks())


def a_guest_that_migrates_does_not_wait_for_ever():
    with host(STAND_IN) as (d, store):
        d.stop()
        d.options = ["--start-limit", "5"]  # for the start of a python, too
        d.start()
        params = "aio:" + d.image("img")
        here = Vbd(store, params)
        here.wait_state(2)
        there = migrating(store, params)
        there.ring()
        there.wait_state(6)
        assert here.name in there.get("error") and "not closed" in there.get("error")
        assert here.get("state") == "2"
        there.close()
        # nor is it let go to another guest
        store.write({"/local/domain/9/vm": "/vm/of-another"})
        thief = Vbd(store, params, 9)
        thief.wait_state(2)
        assert "in use" in thief.get("hotplug-error"), thief.get("hotplug-error")
        thief.close()
        # it is given up while it waits
        there.create(params)
        there.wait_state(2)
        there.ring()
        there.remove()
        wait_for("its end", lambda: len(d.disks()) == 1)
        here.close()
        wait_for("its end", lambda: not d.disks())


def a_tapdisk_that_answers_late_is_taken_over_late():
    with host() as (d, store):
        vbd = Vbd(store, "aio:" + d.image("img"))
        vbd.wait_state(2)
        pid, other = pid_of(d, vbd.name), d.attach("aio:" + d.image("other"))
        d.kill()
        vbd.remove()
        vbd.create("aio:" + d.folder + "/img")
        os.kill(pid, signal.SIGSTOP)
        os.kill(other["pid"], signal.SIGSTOP)
        d.start(adopts=False)  # waits for it for a while, then goes on
        row = d.disk(vbd.name)
        assert row["state"] == "starting" and row["user"] == "domain 7", row
        assert vbd.get("state") == "1"  # nothing is offered that is not known
        assert d.ctl("detach", other["name"], "--force").status == 0
        os.unlink(other["path"])
        os.kill(pid, signal.SIGCONT)
        vbd.wait_state(2)
        assert pid_of(d, vbd.name) == pid and vbd.get("sectors") == "16384"
        vbd.close()
        wait_for("its end", lambda: not d.disks())


def nobody_replaces_a_disk_under_a_connected_guest():
    with host(STAND_IN) as (d, store):
        vbd = ringing(d, store)
        pid = pid_of(d, vbd.name)
        d.kill()
        vbd.set(params="aio:/another")
        d.start()
        row = d.disk(vbd.name)
        assert row["pid"] == pid and row["state"] == "serving", row
        assert vbd.get("state") == "4"
        vbd.close()  # and it is still looked after
        wait_for("its end", lambda: not d.disks())


def a_connected_disk_is_taken_away_by_force():
    with host(STAND_IN) as (d, store):
        vbd, other = ringing(d, store), ringing(d, store, domid=8)
        pid = pid_of(d, other.name)
        assert d.ctl("detach", vbd.name, "--force").status == 0
        vbd.close()
        assert pid_of(d, other.name) == pid and other.get("state") == "4"
        other.close()
        wait_for("its end", lambda: not d.disks())


def a_tapdisk_that_dies_while_it_is_asked_leaves_nothing():
    with host(STAND_IN) as (d, store):
        connecting = Vbd(store, f"aio:{d.folder}/img,hang=xen-connect")
        connecting.wait_state(2)
        connecting.ring()
        leaving = ringing(d, store, ",hang=xen-disconnect", 8)
        other = ringing(d, store, domid=9)
        leaving.set(online=0, state=5)
        leaving.guest({"state": 6})
        for line in (f"{connecting.name}: is asked to xen-connect",
                     f"{leaving.name}: is asked to xen-disconnect"):
            wait_for(line, lambda line=line: line in d.log())
        for vbd in (connecting, leaving):
            os.kill(pid_of(d, vbd.name), signal.SIGKILL)
        leaving.wait_state(6)
        wait_for("their end", lambda: not d.disk(leaving.name) and
                 d.disk(connecting.name)["state"] == "dead")
        connecting.close()
        leaving.remove()
        wait_for("their end", lambda: len(d.disks()) == 1)
        # whatever it still waits for: it lives, and serves
        for vbd in (connecting, leaving):
            vbd.create("aio:/x")
            vbd.wait_state(2)
            vbd.close()
        other.close()
        wait_for("its end", lambda: not d.disks())


if __name__ == "__main__":
    harness.main({name.replace("_", "-"): f for name, f in globals().items()
                  if callable(f) and getattr(f, "__module__", "") == "__main__"})
