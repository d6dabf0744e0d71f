#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvhdi.py vhd|vhdx IMAGE MODEL [PARENT]: libvhdi reads in the image what the model has.

Of a VHD over a parent it (20210425) takes eight sectors for the image's own if some of
them are: such are left out.
"""
import struct
import sys

import pyvhdi


def open_image(path):
    image = pyvhdi.file()
    image.open(path)
    return image


def mixed_pages(path):
    """Pages of a differencing VHD of which some sectors are its own."""
    mixed = set()
    with open(path, "rb") as f:
        data = f.read()
    bat, entries, block = struct.unpack(">Q4xII", data[528:548])
    for i in range(entries):
        at = struct.unpack(">I", data[bat + 4 * i:bat + 4 * i + 4])[0]
        for n in range(block // 4096 if at != 0xffffffff else 0):
            if data[at * 512 + n] not in (0, 255):
                mixed.add(i * (block // 4096) + n)
    return mixed


kind, path, model = sys.argv[1:4]
image = open_image(path)
mixed = set()
if len(sys.argv) > 4:
    parent = open_image(sys.argv[4])
    image.set_parent(parent)
    if kind == "vhd":
        mixed = mixed_pages(path)
piece = 4096 if mixed else 1 << 20
with open(model, "rb") as f:
    at = 0
    while want := f.read(piece):
        if at // piece not in mixed and image.read_buffer_at_offset(len(want), at) != want:
            sys.exit("libvhdi reads something else at %d" % at)
        at += len(want)
size = image.get_media_size()
if at > size or (kind == "vhdx" and at != size):
    sys.exit("libvhdi: %d bytes, not %d" % (size, at))
