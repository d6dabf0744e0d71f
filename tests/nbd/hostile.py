# SPDX-License-Identifier: LGPL-2.1-or-later
"""Peers that lie, stall, flood or vanish: the server goes on serving others, and
its memory stays bounded."""
import random
import signal
import struct

from rig import *

# What one connection's buffers may come to, and then some for the process.
CONNECTION_MEMORY = 61 * MiB
PROCESS_MEMORY = 16 * MiB


def served(disk):
    try:
        Peer(disk).go().close()
        return True
    except (EOFError, ConnectionError):
        return False


def still_serves(disk):
    # I/O of peers that are gone counts until it has ended
    wait_for("somebody new is served", lambda: served(disk))
    peer = Peer(disk).go(structured=True)
    data = pattern(65536, 99)
    peer.write(disk.size - 65536, data)
    assert peer.read(disk.size - 65536, 65536) == data
    peer.send(DISC)
    assert peer.hung_up()


@test
def garbage_ends_the_connection_only():
    seed = int(os.environ.get("TEST_SEED", random.randrange(1 << 32)))
    print("seed", seed)
    rand = random.Random(seed)
    with Tapdisk() as disk:
        good = Peer(disk).go()
        for start in ("greeting", "options", "requests"):
            for _ in range(40):
                peer = Peer(disk, greet=start != "greeting")
                if start == "requests":
                    peer.go(structured=bool(rand.getrandbits(1)))
                try:
                    peer.put(rand.randbytes(rand.choice((1, 27, 28, 100, 5000))))
                    if rand.getrandbits(1):
                        peer.socket.shutdown(1)
                        assert peer.hung_up()
                except ConnectionError:
                    pass
                peer.close()
        # nearly right ones: one byte of a good conversation is changed
        talk = struct.pack(">I", 3)
        for option, data in ((STRUCTURED, b""), (SET_META, good.contexts(b"base:allocation")),
                             (GO, good.name_and_infos(b"", (3,)))):
            talk += struct.pack(">QII", OPTION_MAGIC, option, len(data)) + data
        for command in (READ, WRITE, FLUSH, TRIM, ZEROES, STATUS):
            talk += struct.pack(">IHHQQI", 0x25609513, 0, command, 1, 0, 512)
            talk += bytes(512) if command == WRITE else b""
        for _ in range(200):
            broken = bytearray(talk)
            broken[rand.randrange(len(talk))] = rand.randrange(256)
            peer = Peer(disk, greet=False)
            try:
                peer.put(broken)
                peer.socket.shutdown(1)
                assert peer.hung_up()
            except ConnectionError:
                pass
            peer.close()
        assert good.read(MiB, 4096) == bytes(4096)
        still_serves(disk)


@test
def bad_magic_hangs_up():
    with Tapdisk() as disk:
        peer = Peer(disk).go()
        peer.send(READ, 0, 512, magic=0x25609514)
        assert peer.hung_up()
        peer = Peer(disk)
        peer.put(struct.pack(">QII", OPTION_MAGIC + 1, GO, 6) + bytes(6))
        assert peer.hung_up()
        peer = Peer(disk, flags=0x80)
        assert peer.hung_up()
        assert "unknown flags" in disk.said()
        still_serves(disk)


@test
def wild_lengths_take_no_memory():
    with Tapdisk() as disk:
        before = disk.memory()
        for length in (32 * MiB + 1, 2 ** 31, 2 ** 32 - 1):
            peer = Peer(disk).go()
            peer.send(WRITE, 0, length)
            assert peer.hung_up(), "the end of such a payload is not waited for"
            peer = Peer(disk)
            peer.put(struct.pack(">QII", OPTION_MAGIC, GO, length))
            assert peer.reply(GO)[0] == ERR_TOO_BIG
            peer.close()
            peer = Peer(disk)
            peer.put(struct.pack(">QII", OPTION_MAGIC, EXPORT_NAME, length))
            assert peer.hung_up()
            inner = struct.pack(">I", length & 0xFFFFFFFF) + bytes(10)
            for option in (GO, INFO, LIST_META, SET_META):
                peer = Peer(disk)
                peer.ask(STRUCTURED)
                assert peer.ask(option, inner)[-1][0] == ERR_INVALID
                peer.close()
        if not disk.sanitized():
            assert disk.memory("VmHWM") < before + PROCESS_MEMORY
        still_serves(disk)


@test
def half_requests_leave_nothing():
    with Tapdisk() as disk:
        files = "/proc/%d/fd" % disk.process.pid
        before = len(os.listdir(files))
        for length in (0, 1, 27):
            peer = Peer(disk).go()
            peer.put(struct.pack(">IHHQQI", 0x25609513, 0, WRITE, 1, 0, 512)[:length])
            peer.close()
        for payload in (0, 1, 511, 300000):
            peer = Peer(disk).go()
            peer.send(WRITE, 0, 512 if payload < 512 else MiB, 0, b"x" * payload)
            peer.close()
        wait_for("all connections end", lambda: len(os.listdir(files)) == before)
        assert disk.content() == bytes(disk.size), "no half write was done"
        still_serves(disk)


@test
def disconnect_with_io_in_flight():
    with Tapdisk(256 * MiB) as disk:
        files = "/proc/%d/fd" % disk.process.pid
        before = len(os.listdir(files))
        for i in range(30):
            peer = Peer(disk).go(structured=bool(i & 1), allocation=bool(i & 1))
            data = pattern(2 * MiB, i)
            for k in range(5):
                peer.send(WRITE, k * 4 * MiB, len(data), FUA if k & 1 else 0, data)
                peer.send(READ, k * 4 * MiB, 2 * MiB)
                peer.send(ZEROES, 128 * MiB, 64 * MiB)
                if i & 1:
                    peer.send(STATUS, 0, 128 * MiB)
                peer.send(FLUSH)
            peer.close()
        wait_for("all connections end", lambda: len(os.listdir(files)) == before)
        still_serves(disk)


@test
def a_connection_waits_for_those_that_end():
    """As many as are served, gone with I/O in flight: the next is not refused."""
    with Tapdisk(256 * MiB) as disk:
        peers = [Peer(disk).go() for _ in range(32)]
        disk.process.send_signal(signal.SIGSTOP)
        for i, peer in enumerate(peers):
            peer.send(WRITE, i * MiB, 4096, FUA, pattern(4096, i))
            peer.put(bytes(28)) # no request: we are hung up on at once
        next_one = Peer(disk, greet=False)
        disk.process.send_signal(signal.SIGCONT)
        assert len(next_one.get(18)) == 18
        next_one.close()
        assert "refused" not in disk.said()


def rss_bound(disk, connections):
    if not disk.sanitized():
        limit = connections * CONNECTION_MEMORY + PROCESS_MEMORY
        assert disk.memory("VmHWM") < limit, disk.memory("VmHWM")


@test
def peer_that_never_reads_is_stopped():
    """Floods of small and of large requests: reading from them stops, memory is
    that of the connection's buffers, others are served meanwhile."""
    with Tapdisk(256 * MiB) as disk:
        greedy = []
        for length in (4096, 2 * MiB, 32 * MiB):
            peer = Peer(disk).go()
            peer.socket.setblocking(False)
            request = struct.pack(">IHHQQI", 0x25609513, 0, READ, 1, 0, length)
            sent = 0
            end = time.monotonic() + 2
            while time.monotonic() < end and sent < 100000:
                try:
                    peer.socket.send(request)
                    sent += 1
                except BlockingIOError:
                    time.sleep(0.01)
            assert sent < 100000, "the server never stopped reading"
            greedy.append(peer)
        still_serves(disk)
        rss_bound(disk, 4)
        # one of them reads at last: it gets every answer it is owed
        peer = greedy[0]
        peer.socket.settimeout(WAIT)
        for _ in range(200):
            assert peer.answer() == (1, 0, None)
            assert peer.get(4096) == bytes(4096)
        for peer in greedy:
            peer.close()
        still_serves(disk)


@test
def options_without_reading_are_stopped():
    with Tapdisk() as disk:
        peer = Peer(disk)
        peer.socket.setblocking(False)
        ask = struct.pack(">QII", OPTION_MAGIC, LIST, 0)
        try:
            for _ in range(1 << 20):
                peer.socket.send(ask)
            raise AssertionError("the server took a million options")
        except (BlockingIOError, ConnectionError):
            pass
        still_serves(disk)
        rss_bound(disk, 2)


@test
def half_open_connections_make_room():
    with Tapdisk() as disk:
        old = Peer(disk).go()
        idle = [Peer(disk, greet=False) for _ in range(60)]
        still_serves(disk)
        assert old.read(0, 512) == bytes(512)
        assert idle[0].hung_up(), "the oldest gives way"
        assert "too many negotiate" in disk.said()
        assert len(disk.said().splitlines()) < 40, "the log is not flooded"


@test
def negotiation_has_a_time_limit():
    with Tapdisk() as disk:
        peer = Peer(disk)
        start = time.monotonic()
        assert peer.hung_up()
        assert 5 < time.monotonic() - start < 60
        assert "takes too long" in disk.said()
        still_serves(disk)


@test
def connections_are_bounded():
    with Tapdisk() as disk:
        peers = [Peer(disk).go() for _ in range(32)]
        more = Peer(disk, greet=False)
        assert more.hung_up()
        assert "32 connections" in disk.said()
        assert peers[31].read(0, 512) == bytes(512)
        peers[0].close()
        wait_for("there is room again", lambda: served(disk))


@test
def idle_memory_goes_back():
    with Tapdisk(256 * MiB) as disk:
        fresh = disk.memory()
        peer = Peer(disk).go()
        for at in range(0, 128 * MiB, 32 * MiB):
            peer.write(at, bytes(32 * MiB))
            peer.read(at, 32 * MiB)
        if disk.sanitized():
            return
        assert disk.memory("VmHWM") > fresh + 16 * MiB
        wait_for("an idle connection gives its buffers back",
                 lambda: disk.memory() < 8 * MiB)
        assert peer.read(0, 512) == bytes(512)
        peer.close()


if __name__ == "__main__":
    main()
