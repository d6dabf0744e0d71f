#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""huge.py IMAGE BYTES: a qcow2 image with clusters of 64 KiB of which each is mapped,
and none has been written: tables only, the data are holes of the file. 1 TiB takes
160 MiB of disk."""
import struct
import sys

CLUSTER = 65536
COPIED = 1 << 63


def make(path, size):
    clusters = -(-size // CLUSTER)
    l2_tables = -(-clusters // (CLUSTER // 8))
    l1_clusters = -(-l2_tables * 8 // CLUSTER)
    # header | L1 | refcount table | blocks | L2 tables | data
    fixed = 1 + l1_clusters + l2_tables + clusters
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
            first = data_at + i * (CLUSTER // 8) * CLUSTER
            count = min(CLUSTER // 8, clusters - i * (CLUSTER // 8))
            f.write(struct.pack(">%dQ" % count, *range(
                COPIED | first, (COPIED | first) + count * CLUSTER, CLUSTER)))
        f.truncate(data_at + clusters * CLUSTER)


if __name__ == "__main__":
    make(sys.argv[1], int(sys.argv[2]))
