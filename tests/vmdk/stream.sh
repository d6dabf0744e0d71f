#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# stream.sh CASE: streams, as tools write them: who reads them, and who may not write.
. "$(dirname "$0")/lib.sh"
need qemu-img python3

# Sparse rows between: several tables, of which some have no grain.
source_image() {
	content
	truncate -s 40M raw
	head -c 1000K /dev/urandom >>raw
	truncate -s 110M raw
	head -c 70000 /dev/urandom | head -c 69632 >>raw
}

# As one reads it who gets it byte by byte: grains in the order of the disk, each table
# behind its grains, then directory, footer and end.
walk() { # IMAGE RAW
	must python3 - "$1" "$2" <<'PY'
import struct, sys, zlib
data, raw = open(sys.argv[1], "rb").read(), open(sys.argv[2], "rb").read()
magic, version, flags, capacity, grain = struct.unpack_from("<IIIQQ", data)
gd, overhead = struct.unpack_from("<QQ", data, 56)
assert (version, flags, gd) == (3, 0x30001, 2**64 - 1), (version, flags, gd)
at, last, seen, grains, types = overhead * 512, -1, bytearray(len(raw)), {}, []
while True:
    value, size, kind = struct.unpack_from("<QII", data, at)
    if size:
        assert value > last, f"grain {value} after {last}"
        part = zlib.decompress(data[at + 12:at + 12 + size])
        assert len(part) == grain * 512
        seen[value * 512:value * 512 + len(part)] = part[:len(raw) - value * 512]
        grains[value] = at // 512
        last, at = value, at + (12 + size + 511) // 512 * 512
        continue
    types.append(kind)
    if kind == 1:
        table = struct.unpack_from("<512I", data, at + 512)
        base = [v // (512 * grain) for v, s in grains.items() if s in table]
        assert base and len(set(base)) == 1
        for i, s in enumerate(table):
            assert grains.get((base[0] * 512 + i) * grain, 0) == s
    if kind == 3:
        footer = struct.unpack_from("<Q", data, at + 512 + 56)[0]
        assert footer == directory
    if kind == 2:
        directory = at // 512 + 1
    if kind == 0:
        assert at + 512 == len(data), "something follows the end"
        break
    at += 512 + value * 512
assert types[-3:] == [2, 3, 0] and set(types[:-3]) == {1}, types
assert seen == raw, "it holds something else"
PY
}

reads() {
	source_image
	for option in -q "-c -m 100"; do
		clean
		must "$TAP_IMG" convert -q $option -f raw -O vmdk -o subformat=streamOptimized raw a.vmdk
		walk a.vmdk raw
		must qemu-img compare -q -f vmdk -F raw a.vmdk raw
		must qemu-img check -q -f vmdk a.vmdk
		must "$IMAGE_CHECK" vmdk:a.vmdk
		must "$TAP_IMG" compare -q -f vmdk -F raw a.vmdk raw
	done
	libvmdk_reads a.vmdk raw
	must "$TAP_IMG" convert -q -f vmdk -O vmdk a.vmdk b.vmdk
	must qemu-img compare -q -f vmdk -F raw b.vmdk raw
	must "$TAP_IMG" convert -q -f vmdk -O vmdk -o subformat=streamOptimized,cluster_size=4K \
		b.vmdk c.vmdk
	walk c.vmdk raw
	must qemu-img compare -q -f vmdk -F raw c.vmdk raw
}

# An empty one is whole, and is written once.
once() {
	content
	must "$TAP_IMG" create -q -f vmdk -o subformat=streamOptimized a.vmdk \
		$((9 * 1048576 + 1536))
	must qemu-img check -q -f vmdk a.vmdk
	must "$IMAGE_CHECK" vmdk:a.vmdk
	grep -qx 'allocated: 0 of 145' out.txt || fail "$(cat out.txt)"
	cp a.vmdk empty.vmdk
	cp raw model
	timeout 300 "$IMAGE_RANDOM" vmdk:a.vmdk model ops=3 >out.txt 2>&1 && fail "a guest wrote it"
	cmp a.vmdk empty.vmdk || fail "and it has changed"
	must "$TAP_IMG" convert -q -n -c -f raw -O vmdk raw a.vmdk
	walk a.vmdk raw
	cp a.vmdk was
	refuses 'a.vmdk: is a stream: it can be read, not written' \
		"$TAP_IMG" convert -q -n -c -f raw -O vmdk raw a.vmdk
	refuses 'a.vmdk: is a stream: it can be read' "$TAP_IMG" bench -w -c 1 -f vmdk a.vmdk
	cmp a.vmdk was || fail "it has changed"
	refuses 'e.vmdk: a stream has no parent' "$TAP_IMG" create -q -f vmdk -b a.vmdk -F vmdk \
		-o subformat=streamOptimized e.vmdk
	! ls ./*.part 2>/dev/null || fail "something was left"
	must "$TAP_IMG" measure -O vmdk -o subformat=streamOptimized raw -f raw
	most=$(sed -n 's/^fully allocated size: \([0-9]*\).*/\1/p' out.txt)
	[ "$most" -ge "$(stat -c %s a.vmdk)" ] || fail "measured $most"
}

# What a guest sends to an empty one ends with an error, and the log says why.
guests() {
	command -v qemu-io >/dev/null || skip "qemu-io is not installed"
	must "$TAP_IMG" create -q -f vmdk -o subformat=streamOptimized a.vmdk 9M
	cp a.vmdk empty.vmdk
	"$TAP_IMG" bench -w -c 10 -f vmdk a.vmdk >out.txt 2>&1 && fail "it was written"
	grep -q 'is a stream: only tools write to it' out.txt || fail "says $(cat out.txt)"
	cmp a.vmdk empty.vmdk || fail "it has changed"
}

"$1"
