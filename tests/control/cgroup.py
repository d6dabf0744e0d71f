# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each disk's cgroup, where this machine has a hierarchy to make one in."""
import os
import time

import harness
from harness import Nbd, Skip

MiB = 1 << 20


def hierarchy():
    """The folder of a writable hierarchy, and whether it is version 2."""
    found = {}
    with open("/proc/self/mounts") as f:
        for line in f:
            _, folder, kind, options = line.split()[:4]
            if kind == "cgroup2":
                with open(folder + "/cgroup.controllers") as controllers:
                    if "io" in controllers.read().split():
                        found["v2"] = folder
            elif kind == "cgroup" and "blkio" in options.split(","):
                found["v1"] = folder
    for version in ("v2", "v1"):
        if version in found:
            if not os.access(found[version], os.W_OK):
                raise Skip(f"{found[version]} is not writable for us")
            return found[version], version == "v2"
    raise Skip("no cgroup hierarchy with an I/O controller is mounted")


def device_of(path):
    """major:minor of the whole disk that holds the file, as I/O limits want it."""
    number = os.stat(path).st_dev
    name = f"/sys/dev/block/{os.major(number)}:{os.minor(number)}"
    if not os.path.exists(name):
        raise Skip(f"{path} is not on a block device of its own")
    if os.path.exists(name + "/partition"):
        name += "/.."
    with open(name + "/dev") as f:
        return f.read().strip()


def set_limit(group, v2, device, rate):
    name, text = (("io.max", f"{device} wbps={rate}") if v2 else
                  ("blkio.throttle.write_bps_device", f"{device} {rate}"))
    path = os.path.join(group, name)
    if not os.path.exists(path):
        raise Skip(f"this kernel has no {name}")
    with open(path, "w") as f:
        f.write(text)


def seconds_to_write(disk, size):
    client = Nbd(disk["path"])
    start = time.monotonic()
    for at in range(0, size, MiB // 2):
        client.write(at, b"\x5a" * (MiB // 2))
    client.close()
    return time.monotonic() - start


def each_disk_has_a_cgroup_of_its_own():
    folder, _ = hierarchy()
    with harness.daemon(f"{folder}/blktap-test-{os.getpid()}") as d:
        one, two = d.attach("aio:" + d.image("one")), d.attach("aio:" + d.image("two"))
        for disk in (one, two):
            assert disk["cgroup"] == f"{d.cgroup}/{disk['name']}", disk
            with open(disk["cgroup"] + "/cgroup.procs") as f:
                assert f.read().split() == [str(disk["pid"])]
        d.detach(one)
        assert not os.path.exists(one["cgroup"])
        os.kill(two["pid"], 9)
        harness.wait_for("the dead disk's cgroup to go", lambda: not os.path.exists(two["cgroup"]))
        os.unlink(two["path"])
        # what ends while no daemon is there is swept by the next one
        three = d.attach("aio:" + d.image("three"))
        d.kill()
        os.kill(three["pid"], 9)
        harness.wait_for("its end", lambda: not harness.alive(three["pid"]))
        os.unlink(three["path"])
        d.start()
        assert not os.path.exists(three["cgroup"])


def limit_of_one_disk_leaves_the_other():
    folder, v2 = hierarchy()
    rate, size = 4 * MiB, 8 * MiB
    with harness.daemon(f"{folder}/blktap-test-{os.getpid()}") as d:
        slow = d.attach("aio:" + d.image("slow", size, fill=1))
        free = d.attach("aio:" + d.image("free", size, fill=1))
        set_limit(slow["cgroup"], v2, device_of(d.folder + "/slow"), rate)
        limited = seconds_to_write(slow, size)
        # the device may have other things to do for a while; at the limit it is never quicker
        end = time.monotonic() + 60
        unlimited = seconds_to_write(free, size)
        while unlimited >= limited / 2 and time.monotonic() < end:
            unlimited = seconds_to_write(free, size)
        print(f"limited to {rate // MiB} MiB/s: {limited:.2f} s, its neighbour {unlimited:.2f} s")
        assert limited > 0.8 * size / rate, limited
        assert unlimited < limited / 2, (limited, unlimited)


if __name__ == "__main__":
    harness.main({name.replace("_", "-"): f for name, f in globals().items()
                  if callable(f) and getattr(f, "__module__", "") == "__main__"})
