#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""edit.py IMAGE COMMAND...: changes parts of a VHD, with checksums made right.

  footer:AT=HEX    both footers      end:AT=HEX, copy:AT=HEX   one of them
  header:AT=HEX    the header        bat:N=HEX                 an entry
  raw:AT=HEX       without checksums cut:N                     truncated
  locator:N=CODE,TEXT   in a sector of its own before the end footer
  new-batmap:1     an empty one, where there are no blocks yet; made by tap 1.3
  batmap:N         blocks from 0 to N - 1 are said to be full
  mutate:SEED      bytes here and there in tables
  room:N           zeroes before the footer
"""
import random
import struct
import sys


def checksum(data):
    return ~sum(data) & 0xffffffff


class Image:
    def __init__(self, path):
        with open(path, "rb") as f:
            self.data = bytearray(f.read())
        self.end = len(self.data) - 512
        self.copy = 0
        self.head = struct.unpack(">Q", self.data[16:24])[0]
        self.header = self.head if 0 < self.head < len(self.data) - 1024 else 512
        self.bat = struct.unpack(">Q", self.data[self.header + 16:self.header + 24])[0]
        self.entries = struct.unpack(">I", self.data[self.header + 28:self.header + 32])[0]

    def put(self, at, data):
        self.data[at:at + len(data)] = data

    def footer(self, at, where, data):
        self.put(at + where, data)
        if where != 64:
            self.put(at + 64, bytes(4))
            self.put(at + 64, struct.pack(">I", checksum(self.data[at:at + 512])))

    def in_header(self, where, data):
        self.put(self.header + where, data)
        if where != 36:
            at = self.header
            self.put(at + 36, bytes(4))
            self.put(at + 36, struct.pack(">I", checksum(self.data[at:at + 1024])))

    def insert(self, data):
        """Before the end footer; returns where."""
        at = self.end
        data = data.ljust((len(data) + 511) // 512 * 512, b"\0")
        self.data[at:at] = data
        self.end += len(data)
        return at

    def locator(self, number, code, text):
        data = text.encode("utf-8" if code == "MacX" else "utf-16-le")
        at = self.insert(data) if data else 0
        row = struct.pack(">4sIIIQ", code.encode(), (len(data) + 511) // 512 * 512, len(data), 0, at)
        self.in_header(576 + 24 * number, row)

    def new_batmap(self):
        sectors = (self.entries + 4095) // 4096
        at = self.insert(bytes(512 + sectors * 512))
        assert at == self.bat + (self.entries * 4 + 511) // 512 * 512
        self.put(at, struct.pack(">8sQIII", b"tdbatmap", at + 512, sectors, 0x10002, 0xffffffff))
        for footer in (0, self.end):
            self.footer(footer, 32, bytes.fromhex("00010003"))

    def batmap(self, full):
        at = self.bat + (self.entries * 4 + 511) // 512 * 512
        place, sectors = struct.unpack(">QI", self.data[at + 8:at + 20])
        bits = bytearray(sectors * 512)
        for i in range(full):
            bits[i // 8] |= 0x80 >> i % 8
        self.put(place, bits)
        self.put(at + 24, struct.pack(">I", checksum(bits)))

    def mutate(self, seed):
        rnd = random.Random(seed)
        places = [0, self.end, self.header, self.header + 576, self.bat, self.bat, self.bat,
                  self.bat + (self.entries * 4 + 511) // 512 * 512]
        for _ in range(rnd.randrange(1, 12)):
            at = rnd.choice(places) + rnd.randrange(0, 64)
            self.put(at, bytes(rnd.randrange(256) for _ in range(rnd.randrange(1, 5))))
        if rnd.randrange(4):
            self.footer(0, 0, b"c")
            self.footer(self.end, 0, b"c")
            self.in_header(0, b"c")

    def do(self, command):
        name, _, rest = command.partition(":")
        where, _, value = rest.partition("=")
        if name == "footer":
            self.footer(0, int(where), bytes.fromhex(value))
            self.footer(self.end, int(where), bytes.fromhex(value))
        elif name == "end":
            self.footer(self.end, int(where), bytes.fromhex(value))
        elif name == "copy":
            self.footer(0, int(where), bytes.fromhex(value))
        elif name == "header":
            self.in_header(int(where), bytes.fromhex(value))
        elif name == "bat":
            self.put(self.bat + 4 * int(where), bytes.fromhex(value))
        elif name == "raw":
            self.put(int(where), bytes.fromhex(value))
        elif name == "cut":
            del self.data[int(rest):]
        elif name == "locator":
            self.locator(int(where), *value.split(",", 1))
        elif name == "new-batmap":
            self.new_batmap()
        elif name == "batmap":
            self.batmap(int(rest))
        elif name == "mutate":
            self.mutate(int(rest))
        elif name == "room":
            self.insert(bytes(int(rest)))
        else:
            sys.exit("unknown: " + command)


image = Image(sys.argv[1])
for command in sys.argv[2:]:
    image.do(command)
with open(sys.argv[1], "wb") as f:
    f.write(image.data)
