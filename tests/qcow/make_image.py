#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Makes qcow images byte for byte, by the format's description alone.

  make_image.py FILE RAW [key=value...]

FILE gets the content of RAW (clusters of zeroes are left out). Keys:
  cluster_bits, l2_bits           geometry; 12 and 9
  xen=12|16|16le|16be             the extension of 2006: without flags; with
                                  flags 0 (first versions); with flags saying
                                  nothing; with the flag for a big-endian L1
  l1=be|le                        byte order of the L1 entries
  backing=PATH                    an overlay: RAW is then what differs from PATH
  packed=1                        clusters are compressed where that helps
  premapped=1                     tables of 2006: all 512 clusters mapped at once
  set=OFFSET:HEXBYTES             then these bytes are changed; may be repeated
  cut=BYTES                       then the file is cut off
"""
import struct
import sys
import zlib


def deflate(data):
    z = zlib.compressobj(9, zlib.DEFLATED, -12)
    return z.compress(data) + z.flush()


def blank(data):
    return not data.strip(b"\0")


def build(raw, opt):
    cluster = 1 << int(opt.get("cluster_bits", 12))
    entries = 1 << int(opt.get("l2_bits", 9))
    span = cluster * entries
    backing = opt.get("backing", "").encode()
    xen = opt.get("xen", "")
    ext = int(xen[:2]) if xen else 0
    backing_at = 48 + ext if backing else 0
    l1_at = 48 + ext + len(backing)
    l1_at = (l1_at + 4095) // 4096 * 4096 if xen else (l1_at + 7) // 8 * 8
    l1_count = (len(raw) + span - 1) // span
    out = bytearray(l1_at + 8 * l1_count)
    struct.pack_into(">IIQIIQBBHIQ", out, 0, 0x514649FB, 1, backing_at, len(backing), 0,
                     len(raw), cluster.bit_length() - 1, entries.bit_length() - 1, 0, 0,
                     l1_at)
    if xen:
        struct.pack_into(">III", out, 48, 0x58454EFB, 0, 1 if backing else 512)
    if ext == 16:
        struct.pack_into(">I", out, 60, {"16be": 3, "16": 1, "16le": 0}[xen])
    out[48 + ext:48 + ext + len(backing)] = backing
    below = open(opt["backing"], "rb").read() if backing else bytes(len(raw))

    def room(size, align):
        at = (len(out) + align - 1) // align * align
        out.extend(bytes(at + size - len(out)))
        return at

    for i in range(l1_count):
        part = raw[i * span:(i + 1) * span]
        old = below[i * span:(i + 1) * span]
        if part == old:
            continue
        l2_at = room(8 * entries, max(cluster, 512))
        struct.pack_into("<Q" if opt.get("l1") == "le" else ">Q", out, l1_at + 8 * i, l2_at)
        run = room(span, cluster) if opt.get("premapped") else 0
        for j in range(entries):
            data = part[j * cluster:(j + 1) * cluster].ljust(cluster, b"\0")
            same = part[j * cluster:(j + 1) * cluster] == old[j * cluster:(j + 1) * cluster]
            small = deflate(data) if opt.get("packed") else data
            if run:
                at = entry = run + j * cluster
                out[at:at + cluster] = data
            elif same:
                entry = 0
            elif len(small) < cluster:
                at = room(len(small), 1)
                out[at:at + len(small)] = small
                entry = 1 << 63 | len(small) << (63 - (cluster.bit_length() - 1)) | at
            else:
                at = entry = room(cluster, cluster)
                out[at:at + cluster] = data
            struct.pack_into(">Q", out, l2_at + 8 * j, entry)
    return out


def main():
    pairs = [arg.split("=", 1) for arg in sys.argv[3:]]
    opt = dict(pairs)
    out = build(open(sys.argv[2], "rb").read(), opt)
    for key, value in pairs:
        if key == "set":
            at, data = value.split(":")
            data = bytes.fromhex(data)
            out[int(at, 0):int(at, 0) + len(data)] = data
        if key == "cut":
            del out[int(value):]
    open(sys.argv[1], "wb").write(out)


main()
