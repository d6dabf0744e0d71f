# SPDX-License-Identifier: LGPL-2.1-or-later
"""The section "queues": two connections, served by one thread and by two."""


def plan(add, random_work):
    for place in ("tmpfs", "disk"):
        for form, kind in (("raw", "raw"), ("qcow2", "allocated")):
            for side in ("read", "write"):
                for size in (4, 64):
                    for count in (1, 2):
                        work = dict(random_work(side, 16), bs=size << 10, jobs=2)
                        add("%s %s, %d KiB random %s, two connections, queues=%d"
                            % (place, form, size, side, count), place, kind, work,
                            ("tapdisk",), form, "queues", ",queues=%d" % count)
