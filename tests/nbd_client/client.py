# SPDX-License-Identifier: LGPL-2.1-or-later
"""The NBD client driver with servers that are killed, lose power, hang and lie.

`client.py TAPDISK PLUGIN-FOLDER NAME`: server <- tapdisk with the driver <- this.
"""
import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "nbd"))
from rig import *
import server as faulty

plugins = None


def spec_of(path, *options):
    return ",".join(("nbd:nbd+unix:///?socket=" + path,) + options)


def disk_on(path, *options, arguments=()):
    """A tapdisk whose disk is what is served at path."""
    return Tapdisk(0, "--plugins", plugins, *arguments, spec=spec_of(path, *options))


@contextlib.contextmanager
def volatile(*options, size=4 * MiB, flags=faulty.ALL):
    """A faulty.Server and a tapdisk on it; a connection to that."""
    with tempfile.TemporaryDirectory(prefix="nbd-client-") as folder:
        server = faulty.Server(folder + "/s", size, flags).start()
        try:
            with disk_on(server.path, *options) as disk:
                yield server, disk, Peer(disk).go()
        finally:
            server.stop()


@contextlib.contextmanager
def process(*command, path):
    """A server that is a program, listening at path."""
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_for(command[0] + " listens", lambda: listens(path))
        yield server
    finally:
        server.kill()
        server.wait()


def error_of(function, *args):
    """The error number of a request, and how long it took."""
    began = time.monotonic()
    try:
        function(*args)
    except OSError as error:
        return error.errno, time.monotonic() - began
    return 0, time.monotonic() - began


def no_flush(command, nth):
    """What is written stays volatile, however slow we are: at rest it would be flushed."""
    return "silence" if command == FLUSH else None


# ---- a server that comes back


@test
def a_flush_covers_what_was_written_before_a_power_cut():
    with volatile("connections=3", flags=faulty.ALL | faulty.MULTI) as (server, disk, peer):
        server.rule = no_flush
        peer.write(0, pattern(8192, 1))
        peer.write(4096, pattern(8192, 2)) # over half of it: order matters
        peer.write(MiB, pattern(512, 3))
        assert peer.command(ZEROES, MiB + 512, 4096)[0] == 0
        peer.write(MiB + 1024, pattern(512, 4))
        for i in range(40): # the same place again and again
            peer.write(2 * MiB, pattern(1024, 100 + i))
        wanted = bytes(server.cached)
        assert bytes(server.durable) == bytes(4 * MiB)
        server.power_cut()
        assert server.cached == bytes(4 * MiB)
        server.rule = lambda command, nth: "late" if nth % 3 else None
        server.start()
        assert peer.command(FLUSH)[0] == 0
        assert bytes(server.cached) == wanted, "what was acknowledged is there again"
        server.power_cut()
        assert bytes(server.durable) == wanted, "and the flush made it durable"
        assert "connected again" in disk.said()


@test
def a_read_after_a_power_cut_sees_what_was_written():
    with volatile("connections=4", flags=faulty.ALL | faulty.MULTI) as (server, disk, peer):
        peer.write(12288, pattern(65536, 5))
        server.power_cut()
        server.start()
        assert peer.read(12288, 65536) == pattern(65536, 5)


@test
def what_is_flushed_is_not_written_again():
    with volatile() as (server, disk, peer):
        peer.write(0, pattern(4096, 1))
        assert peer.command(FLUSH)[0] == 0
        server.rule = no_flush
        peer.write(8192, pattern(4096, 2))
        server.power_cut()
        server.seen.clear()
        server.rule = lambda command, nth: None
        server.start()
        peer.read(0, 512)
        again = [(c, o) for c, o, _, _ in server.seen if c != FLUSH]
        assert again == [(WRITE, 8192), (READ, 0)], server.seen


@test
def what_is_kept_is_bounded():
    """12 MiB are written with keep=1M: flushes make room, nothing waits for ever."""
    with volatile("keep=1M", size=12 * MiB) as (server, disk, peer):
        for at in range(0, 12 * MiB, 4 * MiB):
            peer.write(at, pattern(4 * MiB, at))
        flushes = [c for c, *_ in server.seen].count(FLUSH)
        assert 12 < flushes < 200, flushes
        assert max(n for c, _, n, _ in server.seen if c == WRITE) <= MiB // 8
        server.power_cut()
        server.start()
        for at in range(0, 12 * MiB, 4 * MiB):
            assert peer.read(at, 4 * MiB) == pattern(4 * MiB, at)


@test
def a_flush_that_fails_fails_writes_that_wait_for_it():
    with volatile("keep=1M", size=8 * MiB) as (server, disk, peer):
        server.rule = lambda command, nth: EIO if command == FLUSH else None
        assert error_of(peer.write, 0, pattern(4 * MiB))[0] == EIO
        assert peer.command(FLUSH)[0] == EIO
        server.rule = lambda command, nth: None
        assert peer.command(FLUSH)[0] == 0
        peer.write(0, pattern(4 * MiB))


@test
def at_rest_what_is_kept_is_flushed():
    with volatile() as (server, disk, peer):
        peer.write(4096, pattern(MiB))
        wait_for("a flush", lambda: bytes(server.durable[4096:4096 + MiB]) == pattern(MiB))


@test
def a_killed_server_loses_nothing_under_load():
    """kill -9, again and again, with 32 requests in flight on 4 connections."""
    with tempfile.TemporaryDirectory(prefix="nbd-client-") as folder:
        path, image = folder + "/s", folder + "/image"
        with open(image, "wb") as f:
            f.truncate(16 * MiB)

        def serve():
            started = subprocess.Popen([Tapdisk.binary, "--disk", "aio:" + image, "--nbd",
                                        "unix:" + path], stderr=subprocess.DEVNULL)
            wait_for("it listens", lambda: listens(path))
            return started

        servers = [serve()]
        stop = threading.Event()
        ended = [] # requests

        def kill_and_serve():
            try:
                for i in range(5):
                    enough = len(ended) + 100 # and so it is connected
                    wait_for("it is used", lambda: len(ended) > enough or stop.is_set())
                    servers[-1].kill()
                    servers[-1].wait()
                    stop.wait(0.1 * i)
                    os.unlink(path)
                    servers.append(serve())
                stop.wait(0.5)
            finally:
                stop.set()

        killer = threading.Thread(target=kill_and_serve)
        try:
            with disk_on(path, "connections=4") as disk:
                killer.start()
                load_until(stop, Peer(disk).go(), ended)
                assert disk.said().count("connection lost") >= 3, disk.said()
        finally:
            stop.set()
            killer.join()
            servers[-1].kill()
            servers[-1].wait()


def load_until(stop, peer, ended, places=997, size=16384):
    """32 requests in flight; one for a place at a time, so all content is known."""
    content, flying = {}, {}

    def start(nth):
        busy = {place for place, _ in flying.values()}
        place = next(p % places for p in range(nth * 7, nth * 7 + places)
                     if p % places not in busy)
        if nth % 3 or place not in content:
            content[place] = pattern(size, nth)
            flying[peer.send(WRITE, place * size, size, data=content[place])] = place, False
        else:
            flying[peer.send(READ, place * size, size)] = place, True

    while flying or not stop.is_set():
        while len(flying) < 32 and not stop.is_set():
            start(len(ended) + len(flying))
        cookie, error, _ = peer.answer()
        assert error == 0, error
        place, was_read = flying.pop(cookie)
        assert not was_read or peer.get(size) == content[place], place
        ended.append(place)
    assert peer.command(FLUSH)[0] == 0
    for place, data in content.items():
        assert peer.read(place * size, size) == data, place


# ---- a server that does not


@test
def requests_fail_after_the_limit_and_work_when_it_is_back():
    with volatile("reconnect=1") as (server, disk, peer):
        peer.write(0, pattern(512))
        began = time.monotonic() # the outage is no older
        server.stop()
        error, _ = error_of(peer.read, 0, 512)
        took = time.monotonic() - began
        assert error == EIO and 0.9 < took < 30, (error, took)
        tries = [error_of(peer.read, 0, 512) for _ in range(5)]
        assert {error for error, _ in tries} == {EIO}
        assert min(took for _, took in tries) < 0.5, "the limit is one of the outage, not of each"
        assert "requests fail until it is back" in disk.said()
        server.start()
        wait_for("it works again", lambda: error_of(peer.read, 0, 512)[0] == 0)
        assert peer.read(0, 512) == pattern(512)


@test
def reconnect_0_fails_at_once():
    with volatile("reconnect=0") as (server, disk, peer):
        server.stop()
        error, took = error_of(peer.read, 0, 512)
        assert error == EIO and took < 30, (error, took) # 60 s are usual
        server.start()
        wait_for("it works again", lambda: error_of(peer.read, 0, 512)[0] == 0)


@test
def a_silent_server_is_given_up():
    with volatile("timeout=1") as (server, disk, peer):
        server.rule = lambda command, nth: "silence" if command == READ else None
        error, took = error_of(peer.read, 0, 512)
        assert error == EIO and 0.9 < took < 30, (error, took)
        assert "no answer for 1 s" in disk.said()
        server.rule = lambda command, nth: None
        wait_for("it works again", lambda: error_of(peer.read, 0, 512)[0] == 0)


@test
def what_breaks_once_is_repeated():
    for how in "garbage", "half", "close", "drop":
        with volatile() as (server, disk, peer):
            server.rule = lambda command, nth: how if nth == 2 else None
            peer.write(0, pattern(4096, 1))
            peer.write(4096, pattern(4096, 2))
            assert peer.read(0, 8192) == pattern(4096, 1) + pattern(4096, 2), how
            assert "connection lost" in disk.said()


@test
def what_breaks_always_fails():
    for how in "garbage", "half", "close":
        with volatile("reconnect=1") as (server, disk, peer):
            server.rule = lambda command, nth: how
            error, took = error_of(peer.read, 0, 4096)
            assert error == EIO and took < 30, (how, error, took)
            server.rule = lambda command, nth: None
            wait_for("it works again", lambda: error_of(peer.read, 0, 512)[0] == 0)


@test
def a_request_that_breaks_every_connection_fails():
    """Others are answered in between, so the server is not gone."""
    answered = 0
    with volatile() as (server, disk, peer):
        server.rule = lambda command, nth: \
            "close" if server.seen[-1][1] == 8192 else None
        for _ in range(20): # until we were quick enough to ask in between
            if answered > 1:
                break
            bad = peer.send(READ, 8192, 512)
            error, answered = None, 0
            while error is None and answered < 100000:
                peer.send(READ, 0, 512)
                cookie, code, _ = peer.answer()
                if cookie == bad:
                    error = code
                else:
                    assert code == 0
                    peer.get(512)
                    answered += 1
            assert error == EIO, (error, answered)
            while cookie != peer.cookie: # the last that was asked for beside it
                cookie, code, _ = peer.answer()
                assert code == 0
                peer.get(512)
        assert answered > 1, answered


@test
def an_export_of_another_size_is_refused():
    with volatile("reconnect=1") as (server, disk, peer):
        server.stop()
        server.resize(2 * MiB)
        server.start()
        assert error_of(peer.read, 0, 512)[0] == EIO
        wait_for("its cause", lambda: "the export has 2097152 bytes now, not 4194304" in disk.said())
        server.stop()
        server.resize(4 * MiB)
        server.start()
        wait_for("it works again", lambda: error_of(peer.read, 0, 512)[0] == 0)


@test
def a_server_that_lost_an_ability_is_refused():
    with volatile("reconnect=1") as (server, disk, peer):
        server.stop()
        server.flags = faulty.ALL | faulty.RO
        server.start()
        assert error_of(peer.read, 0, 512)[0] == EIO
        wait_for("its cause", lambda: "can do less now" in disk.said())
        server.stop()
        server.flags = faulty.ALL
        server.start()
        wait_for("it works again", lambda: error_of(peer.read, 0, 512)[0] == 0)


def refused(spec):
    done = subprocess.run([Tapdisk.binary, "--plugins", plugins, "--disk", spec, "--nbd",
                           "tcp:127.0.0.1:1"], stderr=subprocess.PIPE, text=True, timeout=WAIT)
    assert done.returncode == 1, done
    return done.stderr


@test
def what_cannot_be_opened_is_named():
    said = refused("nbd:nbd+unix:///?socket=/nowhere/s")
    assert "nbd:nbd+unix:///?socket=/nowhere/s: " in said and "No such file" in said, said
    assert "nbd:nbd://127.0.0.1:9/x: " in refused("nbd:nbd://127.0.0.1:9/x")
    assert "nbd:gopher://x/: " in refused("nbd:gopher://x/")
    assert "nbd:/img: " in refused("nbd:/img")
    path = "nbd:nbd+unix:///?socket=/nowhere/s"
    assert "1M to 1G" in refused(path + ",keep=1k")
    assert "at most 16" in refused(path + ",connections=17")
    assert "reconnect=soon: bad value" in refused(path + ",reconnect=soon")
    assert "several writers" in refused(path + ",shared=on")
    said = refused("nbd:nbds+unix://u@/?socket=/nowhere/s&tls-psk-file=/etc/passwd")
    assert "local file" in said, said
    with tempfile.TemporaryDirectory() as folder:
        mute = socket.socket(socket.AF_UNIX)
        mute.bind(folder + "/s")
        mute.listen(1)
        said = refused(spec_of(folder + "/s"))
        assert "does not answer" in said, said


@test
def without_the_module_nbd_is_refused_by_name():
    done = subprocess.run([Tapdisk.binary, "--plugins", "/nowhere", "--disk", "nbd:nbd://x"],
                          stderr=subprocess.PIPE, text=True, timeout=WAIT)
    assert done.returncode == 1 and 'no driver is called "nbd"' in done.stderr, done


# ---- what a server can do


@test
def connections_are_as_many_as_allowed():
    for flags, wanted in (faulty.ALL, 1), (faulty.ALL | faulty.MULTI, 5):
        with volatile("connections=5", flags=flags) as (server, disk, peer):
            wait_for("the connections", lambda: server.connections == wanted)
            server.stop()
            server.start()
            peer.read(0, 512)
            wait_for("as many again", lambda: server.connections == 2 * wanted)


@test
def a_read_only_export_is_a_read_only_disk():
    with volatile(flags=faulty.HAS | faulty.RO) as (server, disk, peer):
        assert peer.flags & faulty.RO
        assert peer.command(WRITE, 0, 512, data=bytes(512))[0] == EPERM
        assert peer.read(0, 512) == bytes(512)
        assert {c for c, *_ in server.seen} == {READ}
    with volatile() as (server, disk, peer):
        with disk_on(server.path, "read-only=on") as other:
            assert Peer(other).go().flags & faulty.RO


@test
def what_a_server_cannot_do_is_made_up_for_or_not_offered():
    with volatile(flags=faulty.HAS | faulty.CAN_FLUSH) as (server, disk, peer):
        assert not peer.flags & faulty.CAN_TRIM
        peer.write(0, pattern(8192))
        assert peer.command(ZEROES, 4096, 4096, FUA)[0] == 0
        assert peer.read(0, 8192) == pattern(8192)[:4096] + bytes(4096)
        assert {c for c, *_ in server.seen} == {WRITE, FLUSH, READ}
        assert not any(flags for *_, flags in server.seen)
        assert bytes(server.durable[:4096]) == pattern(8192)[:4096]


@test
def block_sizes_are_kept_to():
    need("nbdkit")
    with tempfile.TemporaryDirectory(prefix="nbd-client-") as folder:
        with process("nbdkit", "-f", "-U", folder + "/s", "--filter=blocksize-policy",
                     "memory", "64M", "blocksize-minimum=4096", "blocksize-preferred=65536",
                     "blocksize-maximum=128K", "blocksize-error-policy=error",
                     path=folder + "/s"):
            with disk_on(folder + "/s") as disk:
                export = json.loads(run("nbdinfo", "--json", disk.uri))["exports"][0]
                assert export["block_size_minimum"] == 4096
                assert export["block_size_preferred"] == 65536
                peer = Peer(disk).go()
                peer.write(8192, pattern(20 * MiB))
                assert peer.read(8192, 20 * MiB) == pattern(20 * MiB)


@test
def what_is_said_of_parts_of_sectors_is_rounded():
    """A server may tell bytes of which it has none, wherever they begin."""
    need("nbdkit", "nbdinfo")
    with tempfile.TemporaryDirectory(prefix="nbd-client-") as folder:
        path = folder + "/s"
        with process("nbdkit", "-f", "-U", path, "eval", "get_size=echo 1048576",
                     "pread=head -c $3 /dev/zero", "can_extents=exit 0",
                     "extents=echo 0 1000; echo 1000 3 hole,zero; echo 1003 500000; "
                     "echo 501003 547573 hole,zero", path=path):
            with disk_on(path) as disk:
                extents = json.loads(run("nbdinfo", "--map", "--json", disk.uri))
        found = []
        for extent in extents:
            assert extent["offset"] % 512 == 0 and extent["length"] % 512 == 0, extents
            if found and found[-1][1] == extent["type"]:
                found[-1][0] += extent["length"]
            else:
                found.append([extent["length"], extent["type"]])
        assert found == [[501248, 0], [1048576 - 501248, 3]], extents


@test
def tap_img_takes_a_uri_as_it_is():
    tap_img = os.environ.get("TAP_IMG")
    if not tap_img:
        skip("tap-img is not built")
    with volatile() as (server, disk, direct):
        direct.write(0, pattern(MiB))
        uri = "nbd+unix:///?socket=" + server.path
        plug = "--plugins", plugins
        answer = json.loads(run(tap_img, "info", "--json", *plug, uri))
        assert answer["format"] == "nbd" and answer["virtual-size"] == 4 * MiB, answer
        copy, over = disk.folder + "/copy", disk.folder + "/over"
        run(tap_img, "convert", *plug, "-f", "raw", "-O", "raw", uri, copy)
        run(tap_img, "create", *plug, "-f", "qcow2", "-b", uri, "-F", "raw", over)
        run(tap_img, "compare", *plug, "-f", "qcow2", "-F", "raw", over, copy)
        run(tap_img, "rebase", *plug, "-f", "qcow2", "-b", uri, "-F", "nbd", over)
        for form in "qcow", "vmdk":
            run(tap_img, "create", *plug, "-f", form, "-b", uri, "-F", "raw", over + form)
            run(tap_img, "compare", *plug, "-f", form, "-F", "raw", over + form, copy)
        for form in "vhd", "vhdx":
            said = run(tap_img, "create", *plug, "-f", form, "-b", uri, "-F", "raw", over + form,
                       ok=False)
            assert uri in said and not os.path.exists(over + form), said
        run(tap_img, "compare", *plug, "-f", "raw", copy, uri)


@test
def a_second_signal_ends_a_copy_from_a_server_that_is_gone():
    tap_img = os.environ.get("TAP_IMG")
    if not tap_img:
        skip("tap-img is not built")
    with tempfile.TemporaryDirectory(prefix="nbd-client-") as folder:
        server = faulty.Server(folder + "/s", 4 * MiB, faulty.ALL).start()
        server.rule = lambda command, nth: "silence"
        copy = subprocess.Popen([tap_img, "convert", "--plugins", plugins, "-O", "raw",
                                 spec_of(server.path, "timeout=1000"), folder + "/copy"])
        try:
            parts = lambda: [name for name in os.listdir(folder) if name.endswith(".part")]
            wait_for("it begins", lambda: parts() and server.seen)
            copy.send_signal(signal.SIGINT)
            time.sleep(2.1)
            assert copy.poll() is None and parts(), "it did not wait"
            copy.send_signal(signal.SIGINT)
            assert copy.wait(WAIT) == 128 + signal.SIGINT
            assert os.listdir(folder) == ["s"], os.listdir(folder)
        finally:
            copy.kill()
            copy.wait()
            server.stop()


@test
def errors_of_the_server_are_the_guests():
    with volatile() as (server, disk, peer):
        server.rule = lambda command, nth: ENOSPC if command == WRITE else None
        assert error_of(peer.write, 0, bytes(512))[0] == ENOSPC
        assert peer.read(0, 512) == bytes(512)
        assert "connection lost" not in disk.said()
    need("nbdkit")
    with tempfile.TemporaryDirectory(prefix="nbd-client-") as folder:
        with process("nbdkit", "-f", "-U", folder + "/s", "--filter=error", "--filter=delay",
                     "memory", "4M", "error-pread-rate=50%", "delay-read=1ms",
                     path=folder + "/s"):
            with disk_on(folder + "/s", "connections=2") as disk:
                peer = Peer(disk).go()
                errors = [error_of(peer.read, 4096 * i, 4096)[0] for i in range(60)]
                assert 5 < errors.count(EIO) < 55 and set(errors) == {0, EIO}, errors
                peer.write(0, pattern(4096))


@test
def an_encrypted_connection_works():
    need("nbdkit")
    with tempfile.TemporaryDirectory(prefix="nbd-client-") as folder:
        keys, path = folder + "/keys", folder + "/s"
        with open(keys, "w") as f:
            f.write("alice:" + "5a" * 32 + "\n")
        with process("nbdkit", "-f", "-U", path, "--tls=require", "--tls-psk=" + keys,
                     "memory", "32M", path=path) as server:
            spec = "nbd:nbds+unix://alice@/?socket=%s,tls-psk=%s,connections=2" % (path, keys)
            with Tapdisk(0, "--plugins", plugins, spec=spec) as disk:
                peer = Peer(disk).go()
                peer.write(4096, pattern(20 * MiB))
                assert peer.read(4096, 20 * MiB) == pattern(20 * MiB)
            refused(spec_of(path))
            assert server.poll() is None


@test
def an_image_lies_over_an_export():
    """qcow2 and qcow over raw at a URI, as qemu-img writes it into their headers."""
    need("qemu-img")
    for kind in "qcow2", "qcow":
        with volatile() as (server, base, direct):
            direct.write(MiB, pattern(MiB, 7))
            assert direct.command(FLUSH)[0] == 0
            before = bytes(server.cached)
            uri = "nbd+unix:///?socket=" + server.path
            image = base.folder + "/overlay." + kind
            run("qemu-img", "create", "-q", "-u", "-f", kind, "-b", uri, "-F", "raw", image,
                str(4 * MiB))
            with Tapdisk(0, "--plugins", plugins, spec=kind + ":" + image) as disk:
                peer = Peer(disk).go()
                assert peer.read(MiB, MiB) == pattern(MiB, 7)
                peer.write(MiB + 4096, pattern(4096, 9))
                server.stop()
                server.start()
                assert peer.read(MiB, 4096) == pattern(MiB, 7)[:4096]
                assert peer.read(MiB + 4096, 4096) == pattern(4096, 9)
                assert bytes(server.cached) == before
                assert "connection lost" in disk.said()


@test
def at_rest_it_is_small():
    with volatile() as (server, disk, peer):
        for i in range(3):
            peer.write(i * MiB, pattern(MiB, i))
        assert peer.command(FLUSH)[0] == 0
        peer.close()
        if disk.sanitized():
            return
        # of its own; what there is of libraries in memory is the machine's business
        wait_for("3 MiB at most", lambda: disk.memory("RssAnon") <= 3 * MiB)


if __name__ == "__main__":
    plugins = sys.argv.pop(2)
    main()
