# SPDX-License-Identifier: LGPL-2.1-or-later
"""RAM disks: one memory for every disk of a name, held by the daemon."""
import os
import subprocess

import harness
from harness import Nbd, wait_for


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


def ram_by_hand_needs_no_daemon():
    with harness.daemon() as d:
        path = d.folder + "/hand"
        hand = subprocess.Popen([harness.TAPDISK, "--disk", "ram:x,size=1M", "--nbd",
                                 "unix:" + path], stderr=subprocess.DEVNULL)
        try:
            wait_for("tapdisk", lambda: os.path.exists(path))
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
