# SPDX-License-Identifier: LGPL-2.1-or-later
"""The server with clients that others wrote."""
import json

from rig import *


def scattered(path, size, seed=1):
    """A file with data here and there, and holes between."""
    with open(path, "wb") as f:
        f.truncate(size)
        for i, at in enumerate(range(0, size - MiB, 5 * MiB)):
            f.seek(at + (i % 7) * 4096)
            f.write(pattern((1 + i % 5) * 37 * 512, seed + i))


@test
def qemu_img_convert_and_compare():
    need("qemu-img")
    with Tapdisk() as disk:
        source = disk.folder + "/source.raw"
        scattered(source, disk.size)
        run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, disk.uri)
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, disk.uri)
        run("cmp", source, disk.image)
        back = disk.folder + "/back.qcow2"
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk.uri, back)
        run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", source, back)
        run("qemu-io", "-f", "raw", "-c", "write -P 1 5M 512", disk.uri)
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, disk.uri, ok=False)


@test
def qemu_img_map_finds_the_holes():
    need("qemu-img")
    with Tapdisk() as disk:
        scattered(disk.image, disk.size)
        maps = [json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", what))
                for what in (disk.image, disk.uri)]
        data = [[(e["start"], e["length"]) for e in one if e["data"]] for one in maps]
        zero = [[(e["start"], e["length"]) for e in one if e["zero"]] for one in maps]
        assert data[0] == data[1] and len(data[0]) > 10, maps
        assert zero[0] == zero[1]


def qemu_io(disk, *commands, options=(), ok=True):
    args = []
    for command in commands:
        args += ["-c", command]
    said = run("qemu-io", "-f", "raw", *options, *args, disk.uri, ok=ok)
    assert not ok or "verification failed" not in said, said
    return said


@test
def qemu_io_does_all_operations():
    need("qemu-io")
    with Tapdisk(128 * MiB) as disk:
        qemu_io(disk,
                "write -P 1 0 1M", "write -P 2 512 512", "read -P 2 512 512",
                "read -P 1 1024 4096", "write -P 3 1000 3", "read -P 3 1000 3",
                "read -P 2 1003 5", "write -f -P 4 2M 64k", "read -P 4 2M 64k",
                "write -z 2M 32k", "read -P 0 2M 32k", "read -P 4 2080k 32k",
                "write -z -u 4M 8M", "read -P 0 4M 8M", "discard 0 512k", "flush",
                "write -P 5 16M 40M", "read -P 5 16M 40M", "write -z -f 16M 1M",
                "read -P 0 16M 1M", "read -P 5 17M 39M",
                "aio_write -P 6 64M 4M", "aio_write -P 7 70M 123k",
                "aio_read -P 5 20M 8M", "aio_flush", "read -P 6 64M 4M",
                "read -P 7 70M 123k")
        assert disk.content(64 * MiB, 4 * MiB) == b"\6" * 4 * MiB


@test
def qemu_io_cannot_write_a_read_only_disk():
    need("qemu-io")
    with Tapdisk(MiB, "--read-only") as disk:
        qemu_io(disk, "read -P 0 0 1M", options=("-r",))
        said = qemu_io(disk, "write 0 512", ok=False)
        assert "Permission denied" in said or "read-only" in said, said
        assert disk.content() == bytes(MiB)


@test
def nbdinfo_shows_the_disk():
    need("nbdinfo")
    with Tapdisk() as disk:
        scattered(disk.image, disk.size)
        info = json.loads(run("nbdinfo", "--json", disk.uri))
        assert info["protocol"] == "newstyle-fixed" and info["structured"]
        export = info["exports"][0]
        for key, value in (("export-size", disk.size), ("is_read_only", False),
                           ("can_flush", True), ("can_fua", True), ("can_trim", True),
                           ("can_zero", True), ("can_multi_conn", True), ("can_df", True),
                           ("can_fast_zero", False), ("block_size_minimum", 512),
                           ("block_size_maximum", 32 * MiB),
                           ("contexts", ["base:allocation"])):
            assert export[key] == value, (key, export[key])
        assert run("nbdinfo", "--size", disk.uri).strip() == str(disk.size)
        assert len(json.loads(run("nbdinfo", "--list", "--json", disk.uri))["exports"]) == 1
        lines = json.loads(run("nbdinfo", "--map", "--json", disk.uri))
        assert sum(line["length"] for line in lines) == disk.size and len(lines) > 20
        run("nbdinfo", disk.uri.replace(":///", ":///other"), ok=False)
    with Tapdisk(MiB, "--read-only") as disk:
        assert json.loads(run("nbdinfo", "--json", disk.uri))["exports"][0]["is_read_only"]


@test
def nbdcopy_copies_both_ways():
    need("nbdcopy")
    with Tapdisk(200 * MiB) as disk:
        source, back = disk.folder + "/source.raw", disk.folder + "/back.raw"
        scattered(source, disk.size)
        run("nbdcopy", source, disk.uri)
        run("cmp", source, disk.image)
        run("nbdcopy", "--connections=4", "--requests=64", disk.uri, back)
        run("cmp", source, back)
        assert os.stat(back).st_blocks < disk.size // 512 // 2, "holes stay holes"
        scattered(source, disk.size, 50)
        run("nbdcopy", "--connections=4", "--flush", "--destination-is-zero", "--no-extents",
            "--request-size=1048576", source, disk.uri)
        run("cmp", source, disk.image)


def fio(disk, *options):
    said = run("fio", "--name=nbd", "--ioengine=nbd", "--uri=" + disk.uri,
               "--output-format=json", "--verify_state_save=0", "--verify_fatal=1", *options)
    job = json.loads(said[said.index("{"):])["jobs"][0]
    assert job["error"] == 0, said
    return job


@test
def fio_verifies_what_it_wrote():
    need("fio")
    with Tapdisk(128 * MiB) as disk:
        for depth, block in ((1, "4k"), (32, "4k"), (16, "512-300k"), (8, "1m")):
            job = fio(disk, "--rw=randwrite", "--bs" + ("range=" if "-" in block else "=") +
                      block, "--iodepth=%d" % depth, "--size=128m", "--io_size=48m",
                      "--verify=crc32c", "--do_verify=1", "--fsync=500",
                      "--blockalign=512" if "-" in block else "--iodepth=%d" % depth)
            assert job["write"]["io_bytes"] >= 47 * MiB
            assert job["read"]["io_bytes"] > 0, "verified"


@test
def fio_uses_several_connections():
    need("fio")
    with Tapdisk(128 * MiB) as disk:
        said = run("fio", "--name=nbd", "--ioengine=nbd", "--uri=" + disk.uri,
                   "--numjobs=4", "--size=32m", "--offset_increment=32m", "--rw=randwrite",
                   "--bs=16k", "--iodepth=8", "--verify=crc32c", "--do_verify=1",
                   "--verify_fatal=1", "--verify_state_save=0",
                   "--output-format=json")
        jobs = json.loads(said[said.index("{"):])["jobs"]
        assert len(jobs) == 4 and not any(job["error"] for job in jobs)
        assert all(job["write"]["io_bytes"] == 32 * MiB for job in jobs)


@test
def connections_see_one_disk():
    """What one connection wrote another reads; a flush on one covers the other."""
    with Tapdisk() as disk:
        one, two = Peer(disk).go(), Peer(disk).go(structured=True)
        one.write(MiB, pattern(65536, 3))
        assert two.read(MiB, 65536) == pattern(65536, 3)
        assert two.command(FLUSH) == (0, None)
        two.write(MiB, bytes(4096), FUA)
        assert one.read(MiB, 8192) == bytes(4096) + pattern(65536, 3)[4096:8192]


LIBNBD = r"""
import errno
import nbd
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri(URI)
assert h.can_multi_conn() and h.get_structured_replies_negotiated()
assert h.get_block_size(0) == 512 and h.get_block_size(2) == 32 << 20
h.set_strict_mode(0)
h.pwrite(b"a" * 65536, 0)
h.pwrite(b"b" * 4096, 4096, nbd.CMD_FLAG_FUA)
assert h.pread(65536, 0, nbd.CMD_FLAG_DF) == b"a" * 4096 + b"b" * 4096 + b"a" * 57344
h.zero(8192, 0, nbd.CMD_FLAG_NO_HOLE)
h.trim(4096, 8192, nbd.CMD_FLAG_FUA)
h.flush()
found = []
h.block_status(1 << 20, 0, lambda *args: found.append(args) or 0)
name, offset, entries, error = found[0]
assert name == "base:allocation" and sum(entries[::2]) == 1 << 20, found
for call, number in ((lambda: h.pread(100, 0), errno.EINVAL),
                     (lambda: h.pread(512, h.get_size()), errno.EINVAL),
                     (lambda: h.pwrite(bytes(512), h.get_size()), errno.ENOSPC),
                     (lambda: h.zero(512, 0, nbd.CMD_FLAG_FAST_ZERO), errno.EINVAL),
                     (lambda: h.cache(512, 0), errno.EINVAL)):
    try:
        call()
        raise SystemExit("no error")
    except nbd.Error as e:
        assert e.errnum == number, (e, number)
pieces = [(i * 4096 * 3, nbd.Buffer(4096)) for i in range(1000)]
cookies = []
for at, buf in pieces:
    while h.aio_in_flight() > 64:
        h.poll(-1)
    cookies.append(h.aio_pread(buf, at))
while h.aio_in_flight():
    h.poll(-1)
assert all(h.aio_command_completed(cookie) for cookie in cookies)
assert pieces[5][1].to_bytearray() == b"a" * 4096 and h.pread(4096, 61440) == b"a" * 4096
h.shutdown()
print("all of it")
"""


@test
def libnbd_does_all_operations():
    # the distribution's module belongs to the distribution's python
    for python in (sys.executable, "/usr/bin/python3"):
        if os.path.exists(python) and not subprocess.call(
                [python, "-c", "import nbd"], stderr=subprocess.DEVNULL):
            break
    else:
        skip("python3-libnbd is not installed")
    with Tapdisk() as disk:
        assert "all of it" in run(python, "-c", "URI = %r\n" % disk.uri + LIBNBD)


if __name__ == "__main__":
    main()
