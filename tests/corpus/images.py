# SPDX-License-Identifier: LGPL-2.1-or-later
"""Odd images of each format: a generator per format of (name, bytes, what must come of
it). That is "refused", "damaged" (a check or a read must tell), "good", or None: the
image opens or does not, but does no harm."""
import struct
import zlib

DISK = 1 << 20
K = 1024


class Image:
    """Bytes that are changed in place, with numbers of one order."""

    def __init__(self, data, order):
        self.data, self.order = bytearray(data), order

    def copy(self):
        return Image(self.data, self.order)

    def get(self, at, width):
        return int.from_bytes(self.data[at:at + width], self.order)

    def put(self, at, width, value):
        self.data[at:at + width] = (value % (1 << 8 * width)).to_bytes(width, self.order)
        return self

    def bytes(self, at, data):
        self.data[at:at + len(data)] = data
        return self

    def cut(self, size):
        del self.data[size:]
        return self


def extremes(width, value, size):
    """What a field of that many bytes is set to."""
    top = (1 << 8 * width) - 1
    values = {0, 1, top, top >> 1, (top >> 1) + 1, value + 1, value - 1 if value else 2,
              value * 2, size, size // 512, size + 511, 511, 4095}
    return sorted(v for v in values if 0 <= v <= top and v != value)


def fields(image, rows, seal=lambda image: image):
    """Each field of a header at its extremes."""
    for at, width, name in rows:
        for value in extremes(width, image.get(at, width), len(image.data)):
            yield ("%s=%#x" % (name, value), seal(image.copy().put(at, width, value)), None)


def cuts(image, places):
    """Cut within, before and behind each structure."""
    sizes = set()
    for place in places:
        sizes.update((place - 1, place, place + 1, place + 511, place + 512))
    for size in sorted(s for s in sizes if 0 <= s < len(image.data)):
        yield "cut-%d" % size, image.copy().cut(size), None


def bomb(disk_bytes):
    """A raw deflate stream, with a small window, of many more zeroes than a cluster."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    return packer.compress(bytes(disk_bytes)) + packer.flush()


# ---- qcow ---------------------------------------------------------------------------

def qcow(make):
    image = Image(make("qcow", "cluster_size=4K"), "big")
    l1 = image.get(40, 8)
    l2 = image.get(l1, 8)
    data = image.get(l2, 8)
    yield "good", image, "good"
    yield from cuts(image, (0, 4, 48, l1, l1 + 8, l2, l2 + 8, data, data + 4096))
    yield from fields(image, (
        (0, 4, "magic"), (4, 4, "version"), (8, 8, "backing"), (16, 4, "backing-length"),
        (24, 8, "size"), (32, 1, "cluster-bits"), (33, 1, "l2-bits"), (36, 4, "crypt"),
        (40, 8, "l1"), (l1, 8, "l1-entry"), (l2, 8, "l2-entry")))
    yield "l1-shows-header", image.copy().put(l1, 8, 0x30), "damaged"
    yield "l1-shows-itself", image.copy().put(l1, 8, l1), "damaged"
    yield "l2-shows-header", image.copy().put(l2, 8, 1), "damaged"
    yield "l2-shows-l1", image.copy().put(l2, 8, l1), "damaged"
    yield "l2-shows-itself", image.copy().put(l2, 8, l2), "damaged"
    yield "two-clusters-in-one-place", image.copy().put(l2 + 8, 8, data), "damaged"
    yield "table-past-the-end", image.copy().put(l1, 8, 1 << 50), "damaged"
    at = len(image.data)
    packed = bomb(64 << 20)[:4000]
    bombs = image.copy().bytes(at, packed + bytes(4096 - len(packed)))
    for i in range(256):
        bombs.put(l2 + 8 * i, 8, 1 << 63 | 4000 << 51 | at)
    yield "bombs", bombs, None
    yield from loops(image, lambda i, name: i.bytes(at, name).put(8, 8, at).put(
        16, 4, len(name)))


# ---- qcow2 --------------------------------------------------------------------------

def qcow2(make):
    image = Image(make("qcow2", "cluster_size=4K"), "big")
    l1, table, name_at = image.get(40, 8), image.get(48, 8), 512
    l2 = image.get(l1, 8) & 0x00fffffffffffe00
    data = image.get(l2, 8) & 0x00fffffffffffe00
    block = image.get(table, 8)
    own = 1 << 63
    yield "good", image, "good"
    yield from cuts(image, (0, 8, 72, 104, table, block, l1, l2, l2 + 8, data, data + 4096))
    yield from fields(image, (
        (0, 4, "magic"), (4, 4, "version"), (8, 8, "backing"), (16, 4, "backing-length"),
        (20, 4, "cluster-bits"), (24, 8, "size"), (32, 4, "crypt"), (36, 4, "l1-size"),
        (40, 8, "l1"), (48, 8, "table"), (56, 4, "table-clusters"), (60, 4, "snapshots"),
        (64, 8, "snapshots-at"), (72, 8, "incompatible"), (80, 8, "compatible"),
        (88, 8, "autoclear"), (96, 4, "refcount-order"), (100, 4, "header-length"),
        (104, 1, "compression"), (table, 8, "table-entry"), (l1, 8, "l1-entry"),
        (l2, 8, "l2-entry"), (block, 2, "refcount")))
    yield "l1-shows-itself", image.copy().put(l1, 8, own | l1), "damaged"
    yield "l1-shows-refcounts", image.copy().put(l1, 8, own | block), "damaged"
    yield "l1-shows-a-cluster", image.copy().put(l1, 8, own | data), "damaged"
    yield "l2-shows-header", image.copy().put(l2, 8, own | 512), "damaged"
    yield "l2-shows-l1", image.copy().put(l2, 8, own | l1), "damaged"
    yield "l2-shows-itself", image.copy().put(l2, 8, own | l2), "damaged"
    yield "l2-shows-the-end", image.copy().put(l2, 8, own | 1 << 50), "damaged"
    yield "two-clusters-in-one-place", image.copy().put(l2 + 80, 8, own | data), "damaged"
    yield "refcounts-too-high", image.copy().bytes(block, b"\xff" * 4096), None
    yield "refcounts-all-zero", image.copy().bytes(block, bytes(4096)), "damaged"
    yield "table-shows-itself", image.copy().put(table, 8, table), "damaged"
    yield "table-shows-header", image.copy().put(table, 8, 512), "damaged"
    yield "blocks-all-the-same", image.copy().bytes(table, image.data[table:table + 8] * 512), None
    at = (len(image.data) + 4095) // 4096 * 4096
    for kind, stream in (("bombs", bomb(64 << 20)[:4000]), ("bombs-of-noise", b"\xff" * 4000)):
        bombs = image.copy().bytes(at, stream.ljust(4096, b"\0"))
        bombs.put(block + 2 * (at // 4096), 2, 256)
        for i in range(256):
            bombs.put(l2 + 8 * i, 8, 1 << 62 | 7 << 58 | at)
        yield kind, bombs, None
    many = image.copy().put(60, 4, 60000).put(64, 8, at).bytes(at, bytes(4096))
    yield "snapshots-that-are-not-there", many, "refused"
    row = struct.pack(">QIHHIIQIII", l1, 1, 1, 0, 0, 0, 0, 0, 0xffffffff, 0)
    yield "snapshot-of-a-long-state", image.copy().put(60, 4, 1).put(64, 8, at).bytes(
        at, row.ljust(4096, b"\0")), None
    features = struct.pack(">II", 0x6803f857, 0xfffffff8)
    yield "extension-without-end", image.copy().bytes(image.get(100, 4), features), None
    yield from loops(image, lambda i, name: i.bytes(name_at, name).put(8, 8, name_at).put(
        16, 4, len(name)).bytes(104 + 8, struct.pack(">II", 0xe2792aca, 5) + b"qcow2" + bytes(
            11)))


# ---- VHD ----------------------------------------------------------------------------

def vhd_sum(image, at, length, field):
    image.put(at + field, 4, 0)
    image.put(at + field, 4, ~sum(image.data[at:at + length]))


def vhd_seal(image):
    header = image.get(16, 8)
    if len(image.data) < 2048:
        return image
    vhd_sum(image, 0, 512, 64)
    if header == 512:
        vhd_sum(image, 512, 1024, 36)
    image.bytes(len(image.data) - 512, image.data[:512])
    return image


def vhd(make):
    image = Image(make("vhd", "cluster_size=4K"), "big")
    bat = image.get(512 + 16, 8)
    entries = image.get(512 + 28, 4)
    first = image.get(bat, 4) * 512
    yield "good", image, "good"
    yield from cuts(image, (0, 512, 1536, bat, bat + 4 * entries, first, len(image.data) - 512))
    yield from fields(image, (
        (0, 4, "cookie"), (8, 4, "features"), (12, 4, "version"), (16, 8, "header"),
        (32, 4, "app-version"), (40, 8, "original-size"), (48, 8, "size"), (56, 4, "geometry"),
        (60, 4, "type"), (84, 1, "saved"), (512, 8, "header-cookie"), (528, 8, "bat"),
        (536, 4, "header-version"), (540, 4, "entries"), (544, 4, "block"),
        (bat, 4, "entry"), (bat + 4, 4, "entry-1")), vhd_seal)
    for at in (64, 512 + 36):
        yield "checksum-%d" % at, image.copy().put(at, 4, 1), None
    for kind, value, want in (("header", 0, None), ("table", bat // 512, None),
                              ("end", 0xfffffff0, "damaged")):
        yield "entry-shows-" + kind, image.copy().put(bat, 4, value), want
    yield "all-blocks-in-one-place", image.copy().bytes(bat, image.data[bat:bat + 4] * entries), \
        "damaged"
    child = image.copy().put(60, 4, 4).bytes(512 + 40, b"\1" * 16)
    yield "parent-without-a-name", vhd_seal(child.copy()), "refused"
    at = len(child.data)
    for kind, length, place in (("long", 1 << 20, at), ("past-the-end", 64, 1 << 40),
                                ("odd", 7, at), ("empty", 0, at)):
        row = struct.pack(">4sIIIQ", b"W2ru", 512, length, 0, place)
        yield "locator-%s" % kind, vhd_seal(child.copy().bytes(512 + 576, row).bytes(
            at, bytes(1024))), "refused"

    def over(i, name):
        text = name.decode().encode("utf-16-le")
        i.put(60, 4, 4).bytes(512 + 40, i.data[68:84])
        i.bytes(512 + 576, struct.pack(">4sIIIQ", b"W2ru", 512, len(text), 0, at - 512))
        return vhd_seal(i.bytes(at - 512, text.ljust(1024, b"\0")))
    yield from loops(image, over)


# ---- VHDX ---------------------------------------------------------------------------

def crc32c(data, table=[]):
    for n in range(len(table), 256):
        for _ in range(8):
            n = n >> 1 ^ (0x82f63b78 if n & 1 else 0)
        table.append(n)
    crc, zeroes = 0xffffffff, len(data) - len(data.rstrip(b"\0"))
    for byte in data[:len(data) - zeroes]:
        crc = crc >> 8 ^ table[(crc ^ byte) & 255]
    # what a zero does to each bit of the sum, then two, four ...
    step = [bit >> 8 ^ table[bit & 255] for bit in (1 << i for i in range(32))]

    def times(bits):
        out = 0
        for i in range(32):
            out ^= step[i] if bits >> i & 1 else 0
        return out
    while zeroes:
        crc = times(crc) if zeroes & 1 else crc
        step = [times(column) for column in step]
        zeroes >>= 1
    return crc ^ 0xffffffff


def vhdx_seal(image, which=("head", "regi")):
    for at, length, kind in ((64 * K, 4 * K, "head"), (128 * K, 4 * K, "head"),
                             (192 * K, 64 * K, "regi"), (256 * K, 64 * K, "regi")):
        if kind in which:
            image.put(at + 4, 4, 0)
            image.put(at + 4, 4, crc32c(bytes(image.data[at:at + length])))
    return image


def vhdx(make):
    image = Image(make("vhdx", "cluster_size=1M"), "little")
    mib = 1024 * K
    # one header and one region table: both would have to be changed alike
    for at in (64 * K, 256 * K):
        image.put(at, 4, 0)
    metadata, bat = 2 * mib, 3 * mib
    yield "good", image, "good"
    yield from cuts(image, (0, 64 * K, 128 * K, 192 * K, 256 * K, mib, metadata, metadata + 64 * K,
                            bat, bat + 4096, 4 * mib, len(image.data) - 1))
    head, regions, item = 128 * K, 192 * K, metadata + 64 * K
    yield from fields(image, (
        (head, 4, "header"), (head + 8, 8, "sequence"), (head + 64, 2, "log-version"),
        (head + 66, 2, "version"), (head + 68, 4, "log-length"), (head + 72, 8, "log")),
        lambda i: vhdx_seal(i, ("head",)))
    yield from fields(image, (
        (regions, 4, "regions"), (regions + 8, 4, "region-count"), (regions + 32, 8, "bat"),
        (regions + 40, 4, "bat-length"), (regions + 64, 8, "metadata"),
        (regions + 72, 4, "metadata-length")), lambda i: vhdx_seal(i, ("regi",)))
    yield from fields(image, (
        (metadata, 4, "metadata-magic"), (metadata + 10, 2, "items"), (metadata + 48, 4, "item"),
        (metadata + 52, 4, "item-length"), (item, 4, "block"), (item + 4, 4, "flags"),
        (item + 8, 8, "size"), (item + 16, 4, "sector"), (bat, 8, "entry")))
    yield "block-on-a-table", image.copy().put(bat, 8, bat + 6), "damaged"
    yield "block-past-the-end", image.copy().put(bat, 8, (1 << 50) + 6), "damaged"
    yield "block-in-parts", image.copy().put(bat, 8, image.get(bat, 8) | 7), "damaged"
    yield "log-without-entries", vhdx_seal(image.copy().put(head + 48, 8, 1), ("head",)), "good"


# ---- VDI ----------------------------------------------------------------------------

def vdi(make):
    image = Image(make("vdi", "cluster_size=4K"), "little")
    table, data, count = image.get(0x154, 4), image.get(0x158, 4), image.get(0x180, 4)
    yield "good", image, "good"
    yield from cuts(image, (0, 0x48, 0x154, 0x188, table, table + 4 * count, data, data + 4096))
    yield from fields(image, (
        (0x40, 4, "magic"), (0x44, 4, "version"), (0x48, 4, "header"), (0x4c, 4, "type"),
        (0x154, 4, "map"), (0x158, 4, "data"), (0x168, 4, "sector"), (0x170, 8, "size"),
        (0x178, 4, "block"), (0x17c, 4, "extra"), (0x180, 4, "blocks"), (0x184, 4, "used"),
        (table, 4, "entry")))
    yield "two-blocks-in-one-place", image.copy().put(table + 4, 4, 0), "damaged"
    yield "all-blocks-in-one-place", image.copy().bytes(table, bytes(4 * count)), "damaged"
    yield "place-past-the-end", image.copy().put(table, 4, 0xfffffff0), "damaged"


# ---- VMDK ---------------------------------------------------------------------------

TEXT = """# Disk DescriptorFile
version=1
CID=12345678
parentCID=%s
createType="%s"
%s
"""


def vmdk(make):
    image = Image(make("vmdk", "cluster_size=4K"), "little")
    gd = image.get(56, 8) * 512
    gt = image.get(gd, 4) * 512
    grain = image.get(gt, 4) * 512
    text = image.get(28, 8) * 512
    yield "good", image, "good"
    yield from cuts(image, (0, 4, 79, text, gd, gt, gt + 512, grain, grain + 4096))
    yield from fields(image, (
        (0, 4, "magic"), (4, 4, "version"), (8, 4, "flags"), (12, 8, "capacity"),
        (20, 8, "grain"), (28, 8, "text"), (36, 8, "text-size"), (44, 4, "table-entries"),
        (48, 8, "second-directory"), (56, 8, "directory"), (64, 8, "overhead"),
        (72, 1, "unclean"), (73, 4, "newlines"), (77, 2, "compression"),
        (gd, 4, "directory-entry"), (gt, 4, "entry")))
    for kind, at, value, want in (
            ("directory-shows-header", gd, 1, None),
            ("directory-shows-itself", gd, gd // 512, None),
            ("entry-shows-directory", gt, gd // 512, None),
            ("entry-shows-its-table", gt, gt // 512, None),
            ("entry-past-the-end", gt, 0xfffffff0, "damaged")):
        yield kind, image.copy().put(at, 4, value), want
    yield "two-grains-in-one-place", image.copy().put(gt + 4, 4, grain // 512), "damaged"
    yield from vmdk_texts()


def vmdk_texts():
    flat = 'RW %s FLAT "flat" %s'

    def say(lines, parent="ffffffff", kind="monolithicFlat"):
        return Image((TEXT % (parent, kind, lines)).encode(), "little")
    yield "text-good", say(flat % (2048, 0)), "good"
    for name, lines in (
            ("no-extent", ""), ("past-the-end", flat % (2049, 0)),
            ("offset-past-the-end", flat % (1, 1 << 60)), ("no-sectors", flat % (0, 0)),
            ("sectors-2-64", flat % (1 << 64, 0)), ("sectors-2-63", flat % (1 << 63, 0)),
            ("negative", flat % (-1, 0)), ("unquoted", "RW 8 FLAT flat 0"),
            ("endless-name", 'RW 8 FLAT "flat'), ("long-name", 'RW 8 FLAT "%s" 0' % ("x" * 9000)),
            ("other-folder", 'RW 8 FLAT "../flat" 0'), ("device", 'RW 8 FLAT "/dev/zero" 0'),
            ("unknown-kind", 'RW 8 SOUP "flat" 0'), ("unknown-access", 'XX 8 FLAT "flat" 0'),
            ("itself", 'RW 8 SPARSE "text-itself"'), ("itself-flat", 'RW 1 FLAT "text-itself-flat" 0'),
            ("many", "\n".join([flat % (1, 0)] * 600)),
            ("huge", "# " + "x" * (2 << 20))):
        want = None if name == "itself-flat" else "refused"
        yield "text-" + name, say(lines), want
    for name, first in (("no-head", "CID=1\n"), ("nul", "# Disk DescriptorFile\0"),
                        ("only-head", "# Disk DescriptorFile\n")):
        yield "text-" + name, Image(first.encode(), "little"), "refused"
    yield "text-parent-itself", say(flat % (2048, 0) + '\nparentFileNameHint="text-parent-itself"',
                                    "12345678"), "refused"


# ---- chains -------------------------------------------------------------------------

def loops(image, over):
    """over(image, name) puts it over another one: itself, nobody, one that is over it."""
    for name, below in (("chain-itself", b"chain-itself"), ("chain-nobody", b"chain--nobody"),
                        ("chain-there", b"chain-back"), ("chain-back", b"chain-there")):
        yield name, over(image.copy(), below), "refused"


FORMATS = {"qcow": qcow, "qcow2": qcow2, "vhd": vhd, "vhdx": vhdx, "vdi": vdi, "vmdk": vmdk}
