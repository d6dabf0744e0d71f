#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""edit.py IMAGE COMMAND...: changes parts of a VHDX, and puts checksums right.

  header OFFSET BYTES VALUE      both headers; VALUE is little-endian, or hex:...
  region N OFFSET BYTES VALUE    the N-th entry of both region tables
  regions OFFSET BYTES VALUE     both region tables themselves
  item N OFFSET BYTES VALUE      the N-th entry of the metadata table
  value NAME VALUE               block flags size sector physical
  entry N VALUE                  of the block table
  bytes OFFSET BYTES VALUE       of the file, as it is
  spoil WHAT                     header1 header2 regions1 regions2: their checksums
  log [torn=K] [cut] PLACE=BYTE...   an entry that makes the page at PLACE BYTEs (or
                                 zeroes, for PLACE=zero), and a header that says so;
                                 torn: its K-th sector is; cut: it wants a longer file
  show NAME                      bat log metadata
"""
import struct
import sys

KIB = 1024
HEADERS = (64 * KIB, 128 * KIB)
REGIONS = (192 * KIB, 256 * KIB)
BAT = bytes.fromhex("6677c22d23f600429d64115e9bfd4a08")
NAMES = {"block": ("3767a1ca36fa434db3b633f0aa44e76b", 0, 4),
         "flags": ("3767a1ca36fa434db3b633f0aa44e76b", 4, 4),
         "size": ("2442a52f1bcd7648b2115dbed83bf4b8", 0, 8),
         "sector": ("1dbf41816fa90947ba47f233a8faab5f", 0, 4),
         "physical": ("c748a3cd5d4471449cc9e9885251c556", 0, 4)}


def times(columns, bits):
    out = 0
    for i, column in enumerate(columns):
        if bits >> i & 1:
            out ^= column
    return out


def crc32c(data):
    if not hasattr(crc32c, "table"):
        crc32c.table = []
        for n in range(256):
            for _ in range(8):
                n = n >> 1 ^ (0x82f63b78 if n & 1 else 0)
            crc32c.table.append(n)
    crc, zeroes = 0xffffffff, len(data) - len(data.rstrip(b"\0"))
    for byte in data[:len(data) - zeroes]:
        crc = crc >> 8 ^ crc32c.table[(crc ^ byte) & 255]
    # many zeroes: what one does to each bit of the sum, then two, four ...
    step = [bit >> 8 ^ crc32c.table[bit & 255] for bit in (1 << i for i in range(32))]
    while zeroes:
        if zeroes & 1:
            crc = times(step, crc)
        step = [times(step, column) for column in step]
        zeroes >>= 1
    return crc ^ 0xffffffff


def seal(data):
    data[4:8] = bytes(4)
    data[4:8] = struct.pack("<I", crc32c(data))


class Image:
    def __init__(self, path):
        self.file = open(path, "r+b")

    def read(self, at, n):
        self.file.seek(at)
        return bytearray(self.file.read(n))

    def write(self, at, data):
        self.file.seek(at)
        self.file.write(data)

    def change(self, at, size, offset, data):
        """A structure with a checksum."""
        whole = self.read(at, size)
        whole[offset:offset + len(data)] = data
        seal(whole)
        self.write(at, whole)

    def region(self, guid):
        table = self.read(REGIONS[0], 64 * KIB)
        for i in range(struct.unpack_from("<I", table, 8)[0]):
            at = 16 + 32 * i
            if (table[at:at + 16] == BAT) == guid:
                return struct.unpack_from("<Q", table, at + 16)[0]
        raise SystemExit("no such region")

    def value_at(self, name):
        guid, skip, size = NAMES[name]
        metadata = self.region(False)
        table = self.read(metadata, 64 * KIB)
        for i in range(struct.unpack_from("<H", table, 10)[0]):
            at = 32 + 32 * i
            if table[at:at + 16].hex() == guid:
                return metadata + struct.unpack_from("<I", table, at + 16)[0] + skip, size
        raise SystemExit("no such item")

    def current(self):
        return max((self.read(at, 4 * KIB) for at in HEADERS),
                   key=lambda header: struct.unpack_from("<Q", header, 8)[0])


def number(text):
    return int(text, 0)


def value(size, text):
    if text.startswith("hex:"):
        return bytes.fromhex(text[4:])
    return (number(text) & (1 << 8 * number(size)) - 1).to_bytes(number(size), "little")


def log(image, words):
    torn, cut, pages = None, False, []
    for word in words:
        key, _, rest = word.partition("=")
        if key == "torn":
            torn = int(rest)
        elif key == "cut":
            cut = True
        else:
            pages.append((number(key), rest))
    header = image.current()
    length, at = struct.unpack_from("<IQ", header, 68)
    image.file.seek(0, 2)
    size = image.file.tell() + (1 << 20) * cut
    guid, sequence = b"blktap-test-guid", 7
    front = (64 + 32 * len(pages) + 4095) // 4096
    data = [place for place, byte in pages if byte != "zero"]
    entry = bytearray(4096 * (front + len(data)))
    struct.pack_into("<4sIIIQII16sQQ", entry, 0, b"loge", 0, len(entry), 0, sequence,
                     len(pages), 0, guid, size, size)
    put = front * 4096
    for i, (place, byte) in enumerate(pages):
        if byte == "zero":
            struct.pack_into("<4sIQQQ", entry, 64 + 32 * i, b"zero", 0, 4096, place, sequence)
            continue
        page = image.read(place, 4096) if byte == "same" else bytes([number(byte)]) * 4096
        struct.pack_into("<4s4s8sQQ", entry, 64 + 32 * i, b"desc", page[4092:], page[:8],
                         place, sequence)
        struct.pack_into("<4sI4084sI", entry, put, b"data", 0, page[8:4092], sequence)
        put += 4096
    seal(entry)
    if torn is not None:
        entry[4096 * torn + 40:4096 * torn + 512] = bytes(472)
    image.write(at, entry)
    for where in HEADERS:
        image.change(where, 4096, 48, guid)


def main(path, command, *words):
    image = Image(path)
    if command == "header":
        for at in HEADERS:
            image.change(at, 4096, number(words[0]), value(*words[1:]))
    elif command == "region":
        for at in REGIONS:
            image.change(at, 64 * KIB, 16 + 32 * number(words[0]) + number(words[1]),
                         value(*words[2:]))
    elif command == "regions":
        for at in REGIONS:
            image.change(at, 64 * KIB, number(words[0]), value(*words[1:]))
    elif command == "item":
        image.write(image.region(False) + 32 + 32 * number(words[0]) + number(words[1]),
                    value(*words[2:]))
    elif command == "value":
        at, size = image.value_at(words[0])
        image.write(at, value(str(size), words[1]))
    elif command == "entry":
        image.write(image.region(True) + 8 * number(words[0]), value("8", words[1]))
    elif command == "bytes":
        image.write(number(words[0]), value(*words[1:]))
    elif command == "spoil":
        image.write({"header1": HEADERS[0], "header2": HEADERS[1], "regions1": REGIONS[0],
                     "regions2": REGIONS[1]}[words[0]] + 4, b"bad!")
    elif command == "log":
        log(image, words)
    elif command == "show":
        print({"bat": lambda: image.region(True), "metadata": lambda: image.region(False),
               "log": lambda: struct.unpack_from("<Q", image.current(), 72)[0]}[words[0]]())
    else:
        raise SystemExit(__doc__)


main(*sys.argv[1:])
