# SPDX-License-Identifier: LGPL-2.1-or-later
"""The protocol, byte by byte: what is answered to each option and request."""
import struct

from rig import *


# ---- negotiation -----------------------------------------------------------

@test
def options_are_answered():
    with Tapdisk() as disk:
        peer = Peer(disk)
        assert peer.handshake == 3
        assert peer.ask(LIST) == [(SERVER, bytes(4)), (ACK, b"")]
        assert peer.ask(LIST, b"x")[-1][0] == ERR_INVALID
        assert peer.ask(STARTTLS)[-1][0] in (ERR_UNSUP, ERR_POLICY)
        assert peer.ask(77, b"unknown")[-1][0] == ERR_UNSUP
        assert peer.ask(77, bytes(100000))[-1][0] == ERR_TOO_BIG
        assert peer.ask(INFO, b"short")[-1][0] == ERR_INVALID
        assert peer.ask(INFO, peer.name_and_infos() + b"x")[-1][0] == ERR_INVALID
        assert peer.ask(INFO, peer.name_and_infos(b"other"))[-1][0] == ERR_UNKNOWN
        assert peer.ask(GO, peer.name_and_infos(b"other"))[-1][0] == ERR_UNKNOWN
        infos = peer.ask(INFO, peer.name_and_infos(b"", (1, 3, 99)))
        assert infos[-1][0] == ACK
        found = {struct.unpack(">H", data[:2])[0]: data[2:] for _, data in infos[:-1]}
        assert struct.unpack(">QH", found[0])[0] == disk.size
        assert found[1] == b""
        smallest, preferred, largest = struct.unpack(">III", found[3])
        assert smallest == 512 and preferred >= 4096 and largest == 32 * MiB
        assert peer.ask(ABORT)[-1][0] == ACK
        assert peer.hung_up()


@test
def contexts_need_structured_replies():
    with Tapdisk() as disk:
        peer = Peer(disk)
        query = peer.contexts(b"base:allocation")
        assert peer.ask(SET_META, query)[-1][0] == ERR_INVALID
        assert peer.ask(STRUCTURED, b"x")[-1][0] == ERR_INVALID
        assert peer.ask(STRUCTURED) == [(ACK, b"")]
        one = (META, struct.pack(">I", 1) + b"base:allocation")
        listed = (META, struct.pack(">I", 0) + b"base:allocation")
        for query in ((), (b"base:",), (b"base:allocation", b"other:")):
            assert peer.ask(LIST_META, peer.contexts(*query)) == [listed, (ACK, b"")]
        assert peer.ask(LIST_META, peer.contexts(b"qemu:")) == [(ACK, b"")]
        assert peer.ask(SET_META, peer.contexts(b"base:")) == [(ACK, b"")]
        assert peer.ask(SET_META, peer.contexts(b"base:allocation")) == [one, (ACK, b"")]
        wrong = peer.contexts(b"base:allocation", name=b"other")
        assert peer.ask(SET_META, wrong)[-1][0] == ERR_UNKNOWN
        assert peer.ask(SET_META, peer.contexts(b"base:allocation")[:-1])[-1][0] == \
            ERR_INVALID
        peer.go()
        peer.structured = True
        assert peer.command(STATUS, 0, 4096)[0] == EINVAL, "the last SET failed"


@test
def export_name_starts_serving():
    for flags, zeroes in ((1, 124), (3, 0)):
        with Tapdisk() as disk:
            peer = Peer(disk, flags)
            peer.option(EXPORT_NAME)
            size, _ = struct.unpack(">QH", peer.get(10))
            assert size == disk.size
            assert peer.get(zeroes) == bytes(zeroes)
            assert peer.read(0, 512) == bytes(512)
            wrong = Peer(disk, flags)
            wrong.option(EXPORT_NAME, b"other")
            assert wrong.hung_up()


@test
def exports_name_is_accepted():
    with Tapdisk(64 * MiB, "--name", "web-root") as disk:
        assert Peer(disk).go(name=b"web-root").read(0, 512) == bytes(512)


@test
def options_may_come_in_pieces():
    with Tapdisk() as disk:
        peer = Peer(disk, greet=False)
        peer.get(18)
        whole = struct.pack(">I", 3)
        for option, data in ((STRUCTURED, b""), (GO, peer.name_and_infos())):
            whole += struct.pack(">QII", OPTION_MAGIC, option, len(data)) + data
        whole += struct.pack(">IHHQQI", 0x25609513, 0, READ, 9, 0, 512)
        for byte in whole:
            peer.put(bytes((byte,)))
        assert peer.reply(STRUCTURED) == (ACK, b"")
        while peer.reply(GO)[0] != ACK:
            pass
        assert peer.answer() == (9, 0, (0, bytes(512)))


# ---- requests --------------------------------------------------------------

def flags_of(disk):
    return Peer(disk).go().flags


@test
def flags_say_what_the_disk_can():
    with Tapdisk() as disk:
        # flags, flush, FUA, trim, write-zeroes, several connections
        assert flags_of(disk) == 0b1_0110_1101, bin(flags_of(disk))
        assert Peer(disk).go(structured=True).flags == 0b1_1110_1101
    with Tapdisk(64 * MiB, "--read-only") as disk:
        assert flags_of(disk) == 0b1_0000_0111, bin(flags_of(disk))


def data_goes_both_ways(structured):
    with Tapdisk() as disk:
        peer = Peer(disk).go(structured=structured)
        for offset, length in ((0, 512), (512, 4096), (MiB, 32768), (3 * MiB, 33280),
                               (4 * MiB, 3 * MiB), (16 * MiB, 32 * MiB)):
            data = pattern(length, offset + 1)
            peer.write(offset, data)
            assert peer.read(offset, length) == data
            assert disk.content(offset, length) == data
        peer.write(0, pattern(4096, 5), FUA)
        assert peer.command(FLUSH) == (0, None)
        assert peer.command(ZEROES, 0, 2048) == (0, None)
        assert peer.command(ZEROES, 2048, 512, NO_HOLE | FUA) == (0, None)
        assert peer.read(0, 4096) == bytes(2560) + pattern(4096, 5)[2560:]
        assert peer.command(TRIM, MiB, 16384, FUA) == (0, None)
        assert peer.read(MiB, 16384) in (bytes(16384), pattern(32768, MiB + 1)[:16384])
        assert peer.command(ZEROES, 16 * MiB, 48 * MiB) == (0, None)
        assert peer.read(16 * MiB, 32 * MiB) == bytes(32 * MiB)
        peer.send(DISC)
        assert peer.hung_up()


@test
def simple_replies_carry_data():
    data_goes_both_ways(False)


@test
def structured_replies_carry_data():
    data_goes_both_ways(True)


@test
def trim_frees_space():
    with Tapdisk() as disk:
        peer = Peer(disk).go()
        peer.write(0, pattern(4 * MiB))
        before = os.stat(disk.image).st_blocks
        assert peer.command(TRIM, MiB, 2 * MiB) == (0, None)
        assert os.stat(disk.image).st_blocks <= before - 2 * 2048
        assert peer.read(0, MiB) == pattern(4 * MiB)[:MiB]


@test
def trim_with_fua_flushes():
    with Tapdisk(64 * MiB, "--trace") as disk:
        peer = Peer(disk).go()
        assert peer.command(TRIM, MiB, 4096) == (0, None)
        assert "discard" in disk.said() and "flush" not in disk.said()
        assert peer.command(TRIM, MiB, 4096, FUA) == (0, None)
        assert "flush" in disk.said()


@test
def zeroes_without_hole_keep_space():
    with Tapdisk() as disk:
        peer = Peer(disk).go()
        peer.write(0, pattern(4 * MiB))
        before = os.stat(disk.image).st_blocks
        assert peer.command(ZEROES, 0, 2 * MiB, NO_HOLE) == (0, None)
        assert os.stat(disk.image).st_blocks >= before
        assert peer.command(ZEROES, 2 * MiB, 2 * MiB) == (0, None)
        assert os.stat(disk.image).st_blocks < before
        assert peer.read(0, 4 * MiB) == bytes(4 * MiB)


@test
def wrong_requests_get_the_right_error():
    with Tapdisk() as disk:
        for structured in (False, True):
            peer = Peer(disk).go(structured=structured)
            end = disk.size
            block = bytes(512)
            for wanted, request in (
                    (EINVAL, (READ, end, 512)),
                    (EINVAL, (READ, end - 512, 1024)),
                    (EINVAL, (READ, 2 ** 64 - 512, 1024)),
                    (EINVAL, (READ, 1, 512)),
                    (EINVAL, (READ, 0, 511)),
                    (EINVAL, (READ, 0, 32 * MiB + 512)),
                    (EINVAL, (READ, 0, 512, NO_HOLE)),
                    (EINVAL, (READ, 0, 512, 0x8000)),
                    (ENOSPC, (WRITE, end, 512, 0, block)),
                    (ENOSPC, (WRITE, 2 ** 64 - 512, 512, 0, block)),
                    (EINVAL, (WRITE, 256, 512, 0, block)),
                    (EINVAL, (WRITE, 0, 512, DF, block)),
                    (EINVAL, (WRITE, 0, 100, 0, block[:100])),
                    (EINVAL, (TRIM, end, 512)),
                    (EINVAL, (TRIM, 0, 100)),
                    (ENOSPC, (ZEROES, end - 512, 1024)),
                    (EINVAL, (ZEROES, 0, 4096, FAST_ZERO)),
                    (EINVAL, (CACHE, 0, 4096)),
                    (EINVAL, (STATUS, 0, 4096)),
                    (EINVAL, (4711, 0, 4096)),
                    (0, (READ, 0, 0)),
                    (0, (READ, end, 0)),
                    (0, (WRITE, end, 0)),
                    (0, (TRIM, 0, 0)),
                    (0, (ZEROES, 0, 0)),
                    (0, (FLUSH, 0, 0, FUA))):
                error, _ = peer.command(*request)
                assert error == wanted, (request[:4], error, wanted)
            error, _ = peer.command(READ, 0, 512, DF)
            assert error == (0 if structured else EINVAL)
            if not structured:
                assert peer.read(0, 512, FUA) == block
        assert disk.content() == bytes(disk.size), "none of them wrote"


@test
def read_only_disk_refuses_changes():
    with Tapdisk(64 * MiB, "--read-only") as disk:
        peer = Peer(disk).go()
        assert peer.command(WRITE, 0, 512, 0, b"x" * 512) == (EPERM, None)
        assert peer.command(WRITE, 0, 2 * MiB, 0, b"x" * 2 * MiB) == (EPERM, None)
        assert peer.command(TRIM, 0, 512) == (EPERM, None)
        assert peer.command(ZEROES, 0, 512) == (EPERM, None)
        assert peer.command(FLUSH) == (0, None)
        assert peer.read(0, 512) == bytes(512)
        assert disk.content() == bytes(disk.size)


@test
def replies_name_their_request():
    """Many in flight, mixed sizes: every reply's data belongs to its cookie."""
    with Tapdisk() as disk:
        with open(disk.image, "r+b") as f:
            f.write(pattern(disk.size))
        content = disk.content()
        for structured in (False, True):
            peer = Peer(disk).go(structured=structured)
            asked = {}
            for i in range(300):
                offset = i * 123 * 512
                length = (512, 4096, 65536, 300 * 1024)[i % 4]
                asked[peer.send(READ, offset, length)] = (offset, length)
                while len(asked) > 100 or (i == 299 and asked):
                    cookie, error, data = peer.answer()
                    offset, length = asked.pop(cookie)
                    assert not error
                    data = data[1] if structured else peer.get(length)
                    assert data == content[offset:offset + length], cookie


# ---- block status ----------------------------------------------------------

@test
def who_comes_after_the_disk_grew_sees_its_new_size():
    with tempfile.TemporaryDirectory() as folder:
        control = folder + "/control"
        with Tapdisk(MiB, "--control", control) as disk:
            before = Peer(disk).go()
            assert ask_control(control, "resize", size="2M")["size"] == 2 * MiB
            after = Peer(disk).go()
            assert (before.size, after.size) == (MiB, 2 * MiB)
            after.write(2 * MiB - 4096, pattern(4096))
            assert after.read(2 * MiB - 4096, 4096) == pattern(4096)
            # who was told of the smaller one is held to it
            assert before.command(READ, MiB, 4096)[0] == EINVAL
            before.write(0, pattern(4096))


@test
def block_status_lists_extents():
    with Tapdisk() as disk:
        peer = Peer(disk).go(allocation=True)
        for at in (MiB, 3 * MiB, 5 * MiB):
            peer.write(at, pattern(65536))
        error, extents = peer.command(STATUS, 0, 8 * MiB)
        assert not error
        assert extents == [
            (MiB, 3), (65536, 0), (2 * MiB - 65536, 3), (65536, 0),
            (2 * MiB - 65536, 3), (65536, 0), (3 * MiB - 65536, 3)], extents
        assert peer.command(STATUS, MiB, 4096)[1] == [(4096, 0)]
        assert peer.command(STATUS, 0, 8 * MiB, REQ_ONE)[1] == [(MiB, 3)]
        assert peer.command(STATUS, 0, 0)[0] == EINVAL
        assert peer.command(STATUS, 512, 100)[0] == EINVAL
        assert peer.command(STATUS, disk.size, 512)[0] == EINVAL
        assert peer.command(STATUS, 0, 8 * MiB, NO_HOLE)[0] == EINVAL


@test
def block_status_of_many_extents_is_bounded():
    with Tapdisk(256 * MiB) as disk:
        with open(disk.image, "r+b") as f:
            for i in range(2000):
                f.seek(i * 131072)
                f.write(b"x" * 4096)
        peer = Peer(disk).go(allocation=True)
        at, count = 0, 0
        replies = 0
        while at < 2000 * 131072:
            error, extents = peer.command(STATUS, at, 2000 * 131072 - at)
            assert not error and 0 < len(extents) <= 1024
            at += sum(length for length, _ in extents)
            count += len(extents)
            replies += 1
        assert count == 4000 and replies >= 4, (count, replies)


if __name__ == "__main__":
    main()
