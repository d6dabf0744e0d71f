#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""huge.py IMAGE BYTES: a qcow2 image with clusters of 64 KiB of which each is mapped. The
tables are those of a disk of that size; the clusters they name are of the first GiB, again
and again, so that a read reads the device, and 1 TiB takes 1.2 GiB. To be read only: no
refcount tells how often a cluster is shown."""
import os
import struct
import sys

CLUSTER = 65536
COPIED = 1 << 63
DATA = (1 << 30) // CLUSTER # clusters at the most


def make(path, size):
    clusters = -(-size // CLUSTER)
    l2_tables = -(-clusters // (CLUSTER // 8))
    l1_clusters = -(-l2_tables * 8 // CLUSTER)
    # header | L1 | refcount table | blocks | L2 tables | data
    data = min(clusters, DATA)
    fixed = 1 + l1_clusters + l2_tables + data
    blocks = table = 0
    while True:
        total = fixed + blocks + table
        need = -(-total // (CLUSTER // 2)), -(-blocks * 8 // CLUSTER)
        if need == (blocks, table):
            break
        blocks, table = need
    l1_at = CLUSTER
    table_at = l1_at + l1_clusters * CLUSTER
    blocks_at = table_at + table * CLUSTER
    l2_at = blocks_at + blocks * CLUSTER
    data_at = l2_at + l2_tables * CLUSTER
    with open(path, "wb") as f:
        f.write(struct.pack(">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, 16, size, 0, l2_tables,
                            l1_at, table_at, table, 0, 0, 0, 0, 0, 4, 104) + bytes(8))
        f.seek(l1_at)
        f.write(b"".join(struct.pack(">Q", COPIED | l2_at + i * CLUSTER)
                         for i in range(l2_tables)))
        f.seek(table_at)
        f.write(b"".join(struct.pack(">Q", blocks_at + i * CLUSTER) for i in range(blocks)))
        f.seek(blocks_at)
        full = struct.pack(">H", 1) * (CLUSTER // 2)
        for i in range(blocks):
            f.write(full[:2 * min(CLUSTER // 2, total - i * (CLUSTER // 2))])
        for i in range(l2_tables):
            f.seek(l2_at + i * CLUSTER)
            first = i * (CLUSTER // 8)
            count = min(CLUSTER // 8, clusters - first)
            f.write(struct.pack(">%dQ" % count, *(
                COPIED | data_at + (first + k) % data * CLUSTER for k in range(count))))
        for i in range(data):
            f.seek(data_at + i * CLUSTER)
            f.write(os.urandom(CLUSTER))


if __name__ == "__main__":
    make(sys.argv[1], int(sys.argv[2]))
