# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the server listens: socket files, TCP, addresses that make no sense."""
import re
import stat

from rig import *


def refused(address, words):
    """Starting at this address fails with one clear line and exit code 1."""
    disk = Tapdisk(MiB, address=address)
    try:
        assert disk.process.wait(WAIT) == 1, disk.said()
        assert len(disk.said().splitlines()) == 1 and words in disk.said(), disk.said()
    finally:
        disk.clean_up()


@test
def socket_file_is_private_and_removed():
    with Tapdisk() as disk:
        mode = os.stat(disk.path).st_mode
        assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600
        Peer(disk).go()
        disk.stop()
        assert not os.path.exists(disk.path)


@test
def dead_socket_file_is_replaced():
    with tempfile.TemporaryDirectory() as folder:
        path = folder + "/s"
        old = socket.socket(socket.AF_UNIX)
        old.bind(path)
        old.close()
        with Tapdisk(address="unix:" + path) as disk:
            disk.path = path
            assert Peer(disk).go().read(0, 512) == bytes(512)


@test
def live_socket_file_is_refused():
    with Tapdisk() as disk:
        refused(disk.address, "another server listens there")
        assert Peer(disk).go().read(0, 512) == bytes(512)


@test
def another_servers_socket_file_stays():
    with Tapdisk() as disk:
        os.unlink(disk.path)
        other = socket.socket(socket.AF_UNIX)
        other.bind(disk.path)
        disk.stop()
        assert os.path.exists(disk.path)


@test
def wrong_addresses_are_refused():
    with tempfile.NamedTemporaryFile() as file:
        refused("unix:" + file.name, "is no socket")
        assert os.path.exists(file.name)
    refused("unix:/nowhere/at/all/s", "No such file")
    refused("unix:" + "x" * 200, "1 to 107 bytes")
    refused("unix:", "1 to 107 bytes")
    refused("tcp:localhost", "tcp:HOST:PORT")
    refused("tcp:::1:10809", "tcp:HOST:PORT")
    refused("tcp:127.0.0.1:no-such-port", "127.0.0.1:no-such-port")
    refused("tcp:127.0.0.1:99999", "at most 65535")
    refused("tcp:127.0.0.1:4294967297", "at most 65535")
    refused("udp:127.0.0.1:10809", "unix:PATH or tcp:HOST:PORT")
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        refused("tcp:127.0.0.1:%d" % busy.getsockname()[1], "in use")


def serves_on(host, written):
    with Tapdisk(address="tcp:%s:0" % written) as disk:
        disk.tcp = host, int(re.search(r"tcp:\S+:(\d+)$", disk.said(), re.M).group(1))
        peer = Peer(disk).go(structured=True)
        data = pattern(3 * MiB)
        peer.write(MiB, data)
        assert peer.read(MiB, len(data)) == data
        peer.close()


@test
def tcp_serves():
    serves_on("127.0.0.1", "127.0.0.1")
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return
    serves_on("::1", "[::1]")


@test
def ending_waits_for_requests():
    """Told to stop with requests in flight: what was acknowledged is there."""
    with Tapdisk(256 * MiB) as disk:
        peer = Peer(disk).go()
        cookies = [peer.send(WRITE, i * MiB, MiB, 0, pattern(MiB, i)) for i in range(64)]
        os.kill(disk.process.pid, signal.SIGTERM)
        done = []
        try:
            while len(done) < len(cookies):
                cookie, error, _ = peer.answer()
                assert not error
                done.append(cookies.index(cookie))
        except (EOFError, ConnectionError):
            pass
        assert disk.process.wait(WAIT) == 0
        for i in done:
            assert disk.content(i * MiB, MiB) == pattern(MiB, i), i


@test
def ending_waits_for_who_reads():
    """Told to stop with more to send than the socket takes: a peer that goes on
    reading gets what was asked for, whole."""
    with Tapdisk(256 * MiB) as disk:
        peer = Peer(disk).go()
        for i in range(4):
            peer.send(READ, i * 4 * MiB, 4 * MiB)
        peer.socket.recv(1) # they are being answered
        time.sleep(0.3)
        os.kill(disk.process.pid, signal.SIGTERM)
        time.sleep(0.3)
        got = 1
        while piece := peer.socket.recv(1 << 18):
            got += len(piece)
            time.sleep(0.01)
        assert got and got % (16 + 4 * MiB) == 0, got
        assert disk.process.wait(WAIT) == 0


@test
def ending_leaves_who_does_not_read():
    with Tapdisk(256 * MiB) as disk:
        peer = Peer(disk).go()
        for i in range(4):
            peer.send(READ, i * 4 * MiB, 4 * MiB)
        peer.socket.recv(1) # they are being answered
        os.kill(disk.process.pid, signal.SIGTERM)
        assert disk.process.wait(WAIT) == 0
        assert "does not take its last replies" in disk.said()


@test
def connections_spread_over_queues():
    """With QUEUES=3 six connections are served by three threads, and see one disk."""
    with Tapdisk(64 * MiB) as disk:
        peers = [Peer(disk).go() for _ in range(6)]
        for round in range(50):
            for i, peer in enumerate(peers):
                peer.send(WRITE, i * MiB + round * 4096, 4096, 0, pattern(4096, i + round))
            for peer in peers:
                assert not peer.answer()[1]
        for i in range(6):
            for round in range(50):
                assert peers[i - 1].read(i * MiB + round * 4096, 4096) == \
                    pattern(4096, i + round)
        turns = []
        for task in os.listdir("/proc/%d/task" % disk.process.pid):
            try:
                with open("/proc/%d/task/%s/schedstat" % (disk.process.pid, task)) as f:
                    turns.append(int(f.read().split()[2]))
            except (FileNotFoundError, ProcessLookupError):
                pass # the kernel's own workers for the ring come and go
        assert sum(turn > 10 for turn in turns) >= (3 if disk.queues else 1), turns


if __name__ == "__main__":
    main()
