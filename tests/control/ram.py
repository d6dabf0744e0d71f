# SPDX-License-Identifier: LGPL-2.1-or-later
"""RAM disks: one memory for every disk of a name, held by the daemon."""
import contextlib
import os
import signal
import subprocess
import threading

import harness
from harness import Nbd, listens, wait_for


def memories(d):
    """RAM disks' memories that the daemon holds."""
    fds = f"/proc/{d.process.pid}/fd"
    return sum("memfd:blktap-ram" in os.readlink(f"{fds}/{fd}") for fd in os.listdir(fds))


def ram_is_shared_by_disks_of_one_name():
    with harness.daemon() as d:
        one = d.attach("ram:scratch,size=8M,shared=on")
        two = d.attach("ram:scratch,shared=on")
        other = d.attach("ram:other,size=8M")
        assert two["size"] == 8 << 20 and memories(d) == 2
        a, b, c = Nbd(one["path"]), Nbd(two["path"]), Nbd(other["path"])
        a.write(8192, b"from a" * 1024)
        assert b.read(8192, 6144) == b"from a" * 1024
        b.write(0, b"from b!!" * 512)
        assert a.read(0, 4096) == b"from b!!" * 512
        assert c.read(0, 16384) == bytes(16384)
        d.detach(one)
        assert b.read(8192, 6144) == b"from a" * 1024
        d.detach(two)
        assert memories(d) == 1
        again = d.attach("ram:scratch,size=4M,shared=on")
        assert Nbd(again["path"]).read(8192, 6144) == bytes(6144)  # new, and empty


def ram_says_that_it_is_volatile():
    with harness.daemon() as d:
        disk = d.attach("ram:scratch,size=1M")
        assert [line for line in d.log().splitlines() if "volatile" in line and
                line.startswith(f"{disk['name']}: ram:scratch: ")], d.log()


def ram_second_writer_needs_shared():
    with harness.daemon() as d:
        one = d.attach("ram:scratch,size=1M")
        run = d.ctl("attach", "ram:scratch,size=1M")
        assert run.status == 1 and f"in use by disk {one['name']}" in run.err, run.err
        run = d.ctl("attach", "ram:scratch,size=1M,shared=on")
        assert run.status == 1 and f"in use by disk {one['name']}" in run.err, run.err
        d.detach(one)
        d.attach("ram:scratch,size=1M")


def ram_driver_refuses_second_writers_itself():
    memory = os.memfd_create("blktap-ram", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.dup2(memory, 30, inheritable=True)
    running = []

    def start(spec, *options):
        running.append(subprocess.Popen([harness.TAPDISK, "--disk", spec + ",fd=30", *options],
                                        pass_fds=[30], stderr=subprocess.PIPE, text=True))
        return running[-1]

    def served(*arguments):
        """It prints its first line when it serves, or why it does not."""
        return "in use by another disk" not in (line := start(*arguments).stderr.readline()) and line

    def end():
        while running:
            process = running.pop()
            process.terminate()
            process.communicate(timeout=harness.WAIT)

    try:
        assert served("ram:x,size=1M")
        assert not served("ram:x") and not served("ram:x,shared=on")
        assert not served("ram:x", "--read-only")
        end()
        assert served("ram:x,shared=on") and served("ram:x,shared=on")
        assert served("ram:x", "--read-only") and not served("ram:x")
        end()
    finally:
        for process in running:
            process.kill()
    assert os.fstat(memory).st_size == 1 << 20


def ram_is_filled_from_an_image_once():
    with harness.daemon() as d:
        d.image("img", 65536, fill=7)
        image = os.path.join(d.folder, "img")
        one = d.attach(f"ram:scratch,size=1M,image={image},shared=on")
        client = Nbd(one["path"])
        assert client.size == 1 << 20
        assert client.read(0, 65536) == b"\7" * 65536
        assert client.read(65536, 65536) == bytes(65536)
        client.write(0, b"changed!" * 64)
        two = d.attach(f"ram:scratch,image={image},shared=on")
        assert Nbd(two["path"]).read(0, 512) == b"changed!" * 64
        with open(image, "rb") as f:
            assert f.read() == b"\7" * 65536
        d.detach(one, two)
        three = d.attach(f"ram:scratch,image={image}")
        assert three["size"] == 65536  # the image's, when none is given


def ram_wrong_options_get_one_clear_line():
    with harness.daemon() as d:
        d.image("img", 65536, fill=7)
        for words, spec in (("size=", "ram:a"), ("size=", "ram:a,size=0"),
                            ("size=", "ram:a,size=1000"),
                            ("/no/such", "ram:a,image=/no/such"),
                            ("does not fit", f"ram:a,size=4K,image={d.folder}/img"),
                            ("nosuch", "ram:a,size=1M,nosuch=1"),
                            ("is no RAM disk's memory", "ram:a,size=1M,fd=0")):
            run = d.ctl("attach", spec)
            if spec.endswith("fd=0"):
                continue  # 0 is "none"
            assert run.status == 1 and words in run.err and "\n" not in run.err, (spec, run.err)
        for disk in d.disks():
            d.detach(disk)
        d.attach("ram:b,size=1M,shared=on")
        run = d.ctl("attach", "ram:b,size=2M,shared=on")
        assert run.status == 1 and "1048576" in run.err, run.err
        assert memories(d) == 1


def ram_outlives_the_daemon():
    with harness.daemon() as d:
        one = d.attach("ram:scratch,size=1M,shared=on")
        client = Nbd(one["path"])
        client.write(0, b"still here" * 51 + b"..")
        d.kill()
        d.start()
        row = d.disk(one["name"])
        assert row["spec"] == "ram:scratch,size=1M,shared=on", row
        two = d.attach("ram:scratch,shared=on")
        assert Nbd(two["path"]).read(0, 512) == b"still here" * 51 + b".."
        d.detach(one)
        assert memories(d) == 1
        d.detach(two)
        assert memories(d) == 0


def ram_survives_a_killed_tapdisk():
    with harness.daemon() as d:
        one = d.attach("ram:scratch,size=8M,shared=on")
        two = d.attach("ram:scratch,shared=on")
        a, b = Nbd(one["path"]), Nbd(two["path"])
        a.write(8192, b"from a" * 1024)
        stop = threading.Event()

        def write_on():  # so that it is killed in the middle of something
            with contextlib.suppress(OSError, ConnectionError):
                while not stop.is_set():
                    a.write(1 << 20, b"~" * (1 << 20))

        writer = threading.Thread(target=write_on)
        writer.start()
        try:
            for _ in range(20):
                b.write(1 << 20, b"." * 65536)
            os.kill(one["pid"], signal.SIGKILL)
            wait_for("its death", lambda: d.disk(one["name"])["state"] == "dead")
            for at in range(1 << 20, 2 << 20, 65536):
                b.write(at, b"!" * 65536)
                assert b.read(at, 65536) == b"!" * 65536
        finally:
            stop.set()
            writer.join(harness.WAIT)
        assert b.read(8192, 6144) == b"from a" * 1024
        d.detach(d.disk(one["name"]))
        os.unlink(one["path"])
        again = d.attach("ram:scratch,shared=on")
        assert Nbd(again["path"]).read(8192, 6144) == b"from a" * 1024


def ram_blocks_are_never_of_two_writers():
    """A piece of 64 KiB is written by one, or by the other."""
    piece, size, reads = 65536, 1 << 20, 200
    with harness.daemon() as d:
        disks = [d.attach(f"ram:scratch,size={size},shared=on") for _ in range(3)]
        a, b, c = (Nbd(disk["path"]) for disk in disks)
        stop = threading.Event()

        def write_on(client, letter):
            while not stop.is_set():
                client.write(0, letter * size)

        def mixed(data):
            return any(data[at:at + piece] != data[at:at + 1] * piece
                       for at in range(0, size, piece))

        writers = [threading.Thread(target=write_on, args=them) for them in ((a, b"a"), (b, b"b"))]
        a.write(0, b"a" * size)
        for writer in writers:
            writer.start()
        try:
            found = sum(mixed(c.read(0, size)) for _ in range(reads))
        finally:
            stop.set()
            for writer in writers:
                writer.join(harness.WAIT)
        assert not found, f"{found} of {reads} reads found a mix"


def content(d, disk, size):
    client = Nbd(disk["path"])
    data = client.read(0, size)
    client.close()
    return data


def ram_is_saved_and_loaded():
    with harness.daemon() as d:
        disk = d.attach("ram:scratch,size=2M")  # in use, and not shared
        client = Nbd(disk["path"])
        client.write(1 << 20, b"kept" * 1024)
        for spec in ("aio:saved", "qcow2:saved.qcow2"):
            run = d.ctl("ram-save", "scratch", spec, "--json")
            assert run.json()["data-written"] == 4096, run.out
        assert os.stat(d.folder + "/saved").st_size == 2 << 20
        for spec in ("aio:saved", "qcow2:saved.qcow2"):
            client.write(0, b"x" * (2 << 20))
            run = d.ctl("ram-load", "scratch", spec)
            assert run.status == 0 and not run.out + run.err, run.err
            assert client.read(0, 2 << 20) == (bytes(1 << 20) + b"kept" * 1024).ljust(2 << 20, b"\0")
        run = d.ctl("ram-save", "scratch", "aio:saved")
        assert run.status == 1 and "--force" in run.err, run.err
        client.write(0, b"new!" * 128)
        assert d.ctl("ram-save", "scratch", "aio:saved", "--force").status == 0
        with open(d.folder + "/saved", "rb") as f:
            assert f.read(512) == b"new!" * 128
        row = d.ctl("ram-list", "--json").json()["ram"][0]
        assert (row["name"], row["size"], row["huge_page"]) == ("scratch", 2 << 20, 0), row
        assert [user["name"] for user in row["disks"]] == [disk["name"]]


def ram_loaded_from_less_is_zeroes_behind_it():
    with harness.daemon() as d:
        disk = d.attach("ram:scratch,size=1M,shared=on")
        client = Nbd(disk["path"])
        client.write(0, b"x" * (1 << 20))
        d.image("less", 65536, fill=7)
        d.image("more", 2 << 20, fill=7)
        for words, spec in (("too small", "aio:more"), ("no such file", "aio:/no/such"),
                            ("no driver", "nosuch:less"), ("no format", "less")):
            run = d.ctl("ram-load", "scratch", spec)
            assert run.status == 1 and words in run.err.lower() and "\n" not in run.err, run.err
        assert client.read(0, 1 << 20) == b"x" * (1 << 20)
        run = d.ctl("ram-load", "scratch", "aio:less")
        assert run.status == 0, run.err
        assert client.read(0, 1 << 20) == (b"\7" * 65536).ljust(1 << 20, b"\0")
        run = d.ctl("ram-save", "nosuch", "aio:x")
        assert run.status == 4 and "no RAM disk named nosuch" in run.err, run.err
        assert not os.path.exists(d.folder + "/x")


def ram_is_not_loaded_under_a_guest():
    memory = os.memfd_create("blktap-ram", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.dup2(memory, 30, inheritable=True)
    with harness.daemon() as d:
        d.image("img", 1 << 20, fill=7)
        d.kill()
        os.makedirs(d.run_dir + "/tapdisk", exist_ok=True)
        guests = subprocess.Popen(
            [harness.TAPDISK, "--disk", "ram:scratch,size=1M,fd=30", "--name", "vbd-7-51712",
             "--control", d.run_dir + "/tapdisk/vbd-7-51712.sock"],
            pass_fds=[30], stderr=subprocess.DEVNULL)
        try:
            wait_for("its socket", lambda: listens(d.run_dir + "/tapdisk/vbd-7-51712.sock"))
            d.start()
            run = d.ctl("ram-load", "scratch", "aio:img")
            assert run.status == 1 and "domain 7" in run.err and "--force" in run.err, run.err
            assert os.pread(memory, 512, 0) == bytes(512)
            run = d.ctl("ram-load", "scratch", "aio:img", "--force")
            assert run.status == 0, run.err
            assert os.pread(memory, 512, 0) == b"\7" * 512
        finally:
            guests.terminate()
            guests.wait(harness.WAIT)
        wait_for("its end", lambda: d.disk("vbd-7-51712")["state"] == "dead")
        assert d.ctl("detach", "vbd-7-51712").status == 0
        assert memories(d) == 0


def ram_of_a_tapdisk_that_answers_late_is_not_made_twice():
    with harness.daemon() as d:
        one = d.attach("ram:scratch,size=1M,shared=on")
        Nbd(one["path"]).write(0, b"mine" * 128)
        os.kill(one["pid"], signal.SIGSTOP)
        try:
            d.kill()
            d.start(adopts=False)
            run = d.ctl("attach", "ram:scratch,size=1M,shared=on")
            assert run.status == 1 and f"tapdisk {one['pid']} has not answered" in run.err, run.err
        finally:
            os.kill(one["pid"], signal.SIGCONT)
        wait_for("its answer", lambda: d.disk(one["name"])["state"] == "serving")
        two = d.attach("ram:scratch,shared=on")
        assert content(d, two, 512) == b"mine" * 128


HUGE = "/proc/sys/vm/nr_hugepages"


def huge_pages_wanted(count):
    """How many there are then; they need not be free memory of this machine."""
    with open(HUGE) as f:
        before = int(f.read())
    try:
        with open(HUGE, "w") as f:
            f.write(str(before + count))
        with open(HUGE) as f:
            return before, int(f.read()) - before
    except OSError:
        return before, 0


def ram_of_huge_pages():
    before, more = huge_pages_wanted(8)
    try:
        if more < 8:
            raise harness.Skip("no huge pages can be had here")
        with harness.daemon() as d:
            d.image("img", 1 << 20, fill=7)
            disk = d.attach("ram:scratch,size=8M,huge=on,shared=on")
            row = d.ctl("ram-list", "--json").json()["ram"][0]
            assert row["huge_page"] == 2 << 20 and row["size"] == 8 << 20, row
            client, two = Nbd(disk["path"]), Nbd(d.attach("ram:scratch,shared=on")["path"])
            client.write(3 << 20, b"huge" * 1024)
            assert two.read(3 << 20, 4096) == b"huge" * 1024
            assert "discard" not in d.ctl("info", disk["name"], "--json").json()["can"]
            assert d.ctl("ram-save", "scratch", "aio:saved").status == 0
            run = d.ctl("ram-load", "scratch", "aio:img")
            assert run.status == 0, run.err
            assert client.read(0, 8 << 20) == (b"\7" * (1 << 20)).ljust(8 << 20, b"\0")
            run = d.ctl("ram-load", "scratch", "aio:saved")
            assert run.status == 0, run.err
            assert two.read(3 << 20, 4096) == b"huge" * 1024
            run = d.ctl("attach", "ram:other,size=1M,huge=on")
            assert run.status == 1 and "multiple of 2097152" in run.err, run.err
            full = d.attach(f"ram:full,image={d.folder}/img,huge=on")
            assert full["size"] == 2 << 20
            assert content(d, full, 2 << 20) == (b"\7" * (1 << 20)).ljust(2 << 20, b"\0")
    finally:
        huge_pages_wanted(before - int(open(HUGE).read()))


def ram_without_enough_huge_pages_says_so():
    with harness.daemon() as d:
        run = d.ctl("attach", "ram:scratch,size=8T,huge=on")
        assert run.status == 1 and "huge pages" in run.err and "\n" not in run.err, run.err
        assert memories(d) == 0
        d.attach("ram:usual,size=1M,shared=on")
        run = d.ctl("attach", "ram:usual,huge=on,shared=on")
        assert run.status == 1 and "not of huge pages" in run.err, run.err


def ram_by_hand_needs_no_daemon():
    with harness.daemon() as d:
        path = d.folder + "/hand"
        hand = subprocess.Popen([harness.TAPDISK, "--disk", "ram:x,size=1M", "--nbd",
                                 "unix:" + path], stderr=subprocess.DEVNULL)
        try:
            wait_for("tapdisk", lambda: listens(path))
            client = Nbd(path)
            client.write(512, b"z" * 512)
            assert client.read(0, 1024) == bytes(512) + b"z" * 512
            client.close()
        finally:
            hand.terminate()
            assert hand.wait(harness.WAIT) == 0


if __name__ == "__main__":
    harness.main({name.replace("_", "-"): f for name, f in globals().items()
                  if callable(f) and getattr(f, "__module__", "") == "__main__"})
