# SPDX-License-Identifier: LGPL-2.1-or-later
"""make_esx.py cowd|sesparse|footer RAW IMAGE: images that no tool here makes, of what
a raw file holds (a multiple of 512 bytes). Grains of zeroes are left out."""
import struct
import sys
import zlib

SECT = 512


def grains(raw, size):
    for at in range(0, len(raw), size):
        yield raw[at:at + size].ljust(size, b"\0")


def pad(data, to=SECT):
    return data + b"\0" * (-len(data) % to)


def text(name, sectors, line, kind):
    return (f'# Disk DescriptorFile\nversion=1\nCID=1234abcd\nparentCID=ffffffff\n'
            f'createType="{kind}"\nRW {sectors} {line} "{name}"\n').encode()


def cowd(raw, grain=1):
    """Header of four sectors, directory, tables of 4096 entries, grains."""
    per = 4096
    parts = list(grains(raw, grain * SECT))
    tables = -(-len(parts) // per)
    gd_at = 4
    first = gd_at + -(-tables * 4 // SECT)
    at = first + tables * per * 4 // SECT
    entries, data = [], []
    for part in parts:
        entries.append(at if any(part) else 0)
        if any(part):
            data.append(part)
            at += grain
    used = [any(entries[i * per:(i + 1) * per]) for i in range(tables)]
    gd = [first + i * per * 4 // SECT if used[i] else 0 for i in range(tables)]
    head = struct.pack("<4s7I", b"COWD", 1, 3, len(raw) // SECT, grain, gd_at, tables, at)
    body = pad(struct.pack(f"<{tables}I", *gd))
    body += struct.pack(f"<{per * tables}I", *entries + [0] * (per * tables - len(entries)))
    return head.ljust(4 * SECT, b"\0") + body + b"".join(data)


def sesparse(raw):
    """Grains of 4 KiB; tables of 4096 entries of 64 bits, numbered."""
    grain, per = 8, 4096
    parts = list(grains(raw, grain * SECT))
    tables = -(-len(parts) // per)
    gd_len = -(-tables * 8 // SECT)
    gd_at = 16
    tables_at = gd_at + gd_len
    tables_len = tables * per * 8 // SECT
    grains_at = -(-(tables_at + tables_len) // 8) * 8
    entries, data = [], []
    for i, part in enumerate(parts):
        if not any(part):
            entries.append([0, 1 << 60, 2 << 60][i % 3])
            continue
        number = len(data)
        data.append(part)
        entries.append(3 << 60 | (number & 0xfff) << 48 | number >> 12)
    entries += [0] * (per * tables - len(entries))
    numbers = list(reversed(range(tables))) # a table need not lie where it stands
    gd = [0x10000000 << 32 | n for n in numbers]
    laid = []
    for n in range(tables):
        which = numbers.index(n)
        laid += entries[which * per:(which + 1) * per]
    head = struct.pack("<26Q", 0xcafebabe, 0x200000001, len(raw) // SECT, grain, 64, 0,
                       0, 0, 0, 0, 1, 1, 2, 2, 4, 4, gd_at, gd_len, tables_at, tables_len,
                       8, 4, 12, 4, grains_at, len(data) * grain)
    volatile = struct.pack("<4Q", 0xcafecafe, 0, 0, 0)
    out = pad(head) + pad(volatile)
    out = out.ljust(gd_at * SECT, b"\0") + pad(struct.pack(f"<{tables}Q", *gd))
    out += struct.pack(f"<{per * tables}Q", *laid)
    return out.ljust(grains_at * SECT, b"\0") + b"".join(data)


def footer(raw, name):
    """A stream: its directory comes at the end, and the header again after it."""
    grain, per = 128, 512

    def head(gd_at):
        return struct.pack("<4sIIQQQQIQQQB4sH", b"KDMV", 3, 0x30001, -(-len(raw) // SECT), grain,
                           1, 20, per, 0, gd_at, grain, 0, b"\n \r\n", 1).ljust(SECT, b"\0")

    def marker(sectors, kind):
        return struct.pack("<QII", sectors, 0, kind).ljust(SECT, b"\0")
    out = head(2 ** 64 - 1) + text(name, len(raw) // SECT, "SPARSE",
                                   "streamOptimized").ljust(20 * SECT, b"\0")
    out = out.ljust(grain * SECT, b"\0")
    gd, table = [], []
    parts = list(grains(raw, grain * SECT))
    for i, part in enumerate(parts):
        if any(part):
            table.append(len(out) // SECT)
            packed = zlib.compress(part)
            out += pad(struct.pack("<QI", i * grain, len(packed)) + packed)
        else:
            table.append(0)
        if len(table) == per or i == len(parts) - 1:
            gd.append(0)
            if any(table):
                out += marker(4, 1)
                gd[-1] = len(out) // SECT
                out += struct.pack(f"<{per}I", *table + [0] * (per - len(table)))
            table = []
    sectors = -(-len(gd) * 4 // SECT)
    out += marker(sectors, 2)
    gd_at = len(out) // SECT
    out += pad(struct.pack(f"<{len(gd)}I", *gd))
    return out + marker(1, 3) + head(gd_at) + b"\0" * SECT


def main():
    kind, source, target = sys.argv[1:]
    with open(source, "rb") as f:
        raw = f.read()
    name = target.rsplit("/", 1)[-1]
    if kind == "footer":
        data = footer(raw, name)
    else:
        data = cowd(raw) if kind == "cowd" else sesparse(raw)
        part = name.replace(".vmdk", "-delta.vmdk")
        line, what = ("VMFSSPARSE", "vmfsSparse") if kind == "cowd" else ("SESPARSE", "seSparse")
        with open(target.replace(".vmdk", "-delta.vmdk"), "wb") as f:
            f.write(data)
        data = text(part, len(raw) // SECT, line, what)
    with open(target, "wb") as f:
        f.write(data)


main()
