#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# opens.sh CASE: what is opened, repaired, marked or refused.
. "$(dirname "$0")/lib.sh"
need qemu-img qemu-io python3

# A writer of the others' died: refcounts are counted anew, nothing is lost.
dirty() {
	for kind in refcount_bits=16,cluster_size=4K refcount_bits=1,cluster_size=4K \
		refcount_bits=64,cluster_size=512; do
		image a 9M -o lazy_refcounts=on,$kind
		for n in 1 2 3; do
			( qemu-io -f qcow2 -c "write -P $n ${n}M 700k" -c flush -c abort a ) \
				>/dev/null 2>&1
			[ "$(peek a 79 1)" = 01 ] || fail "qemu-io left it clean"
			must "$IMAGE_CHECK" qcow2:a # reading works
			qemu-img convert -U -f qcow2 -O raw a model 2>/dev/null || fail "convert"
			writes a model seed=$n ops=200
			[ "$(peek a 79 1)" = 00 ] || fail "still marked dirty"
		done
	done
}

autoclear() {
	image a 9M
	must qemu-img bitmap --add a b
	[ "$(peek a 95 1)" = 01 ] || skip "this qemu-img marks no bitmaps"
	poke a 95 81 # and one that nobody knows
	must "$IMAGE_CHECK" qcow2:a
	[ "$(peek a 95 1)" = 81 ] || fail "a reader has changed it"
	truncate -s 9M model
	timeout 300 "$IMAGE_RANDOM" qcow2:a model seed=1 ops=100 check=0 >/dev/null || fail "writing"
	[ "$(peek a 95 1)" = 01 ] || fail "what nobody knows is still said to be true"
	must qemu-img compare -q -f qcow2 -F raw a model
}

refused_features() {
	image a 9M -o data_file=ext.raw
	refuses "a: its data are in another file, ext.raw: say data-file=on" "$IMAGE_CHECK" qcow2:a
	must "$IMAGE_CHECK" qcow2:a,data-file=on
	rm ext.raw
	refuses "ext.raw: No such file" "$IMAGE_CHECK" qcow2:a,data-file=on
	image a 9M
	poke a 78 80 # bit 15
	refuses "a: needs 'incompatible bit 15', which" "$IMAGE_CHECK" qcow2:a
	image a 9M
	poke a 72 8000000000000000
	refuses "a: needs 'incompatible bit 63', which" "$IMAGE_CHECK" qcow2:a
	image a 9M
	poke a 79 02
	truncate -s 9M model
	must "$IMAGE_CHECK" qcow2:a
	timeout 300 "$IMAGE_RANDOM" qcow2:a model ops=5 >out.txt 2>&1 && fail "a corrupt image was written"
	grep -q 'a: is marked corrupt' out.txt || fail "says '$(cat out.txt)'"
}

# The name that the image gives its bits
named_features() {
	image a 9M
	python3 - a <<'PY'
import sys
with open(sys.argv[1], "r+b") as f:
    head = f.read(4096)
    row = head.index(b"dirty bit") - 2
    f.seek(row)
    f.write(bytes([0, 40]) + b"flux capacitor".ljust(46, b"\0"))
    f.seek(72)
    f.write((1 << 40).to_bytes(8, "big"))
PY
	refuses "a: needs 'flux capacitor', which is not supported" "$IMAGE_CHECK" qcow2:a
}

backing() {
	content
	image a 10M -b raw -F raw
	python3 - a <<'PY'
import sys
with open(sys.argv[1], "r+b") as f:
    head = f.read(4096)
    at = head.index(bytes.fromhex("e2792aca"))
    f.seek(at)
    f.write(bytes.fromhex("12345678")) # unknown: skipped
PY
	refuses 'a: does not say of what format its backing file raw is' "$IMAGE_CHECK" qcow2:a
	must "$IMAGE_CHECK" qcow2:a,backing-format=raw
	image a 10M
	refuses 'backing-format= is given, and it has no' "$IMAGE_CHECK" qcow2:a,backing-format=raw
	image a 10M -b raw -F raw
	rm raw
	refuses "a: its backing file: .*raw: No such file" "$IMAGE_CHECK" qcow2:a
}

headers() {
	local row
	image good 9M
	while read -r at bytes what; do
		cp good a
		poke a "$at" "$bytes"
		refuses "$what" "$IMAGE_CHECK" qcow2:a
	done <<'EOR'
0 00 no qcow2 image
4 00000004 qcow version 4
20 00000008 clusters of 2\^8 bytes
20 00000016 clusters of 2\^22 bytes
24 0000000000000000 a disk of 0 bytes
24 ffffffffffffffff a disk of .* bytes cannot be
32 00000001 is encrypted
36 00000000 its L1 table, 0 entries
36 ffffffff its L1 table
40 0000000000000000 its L1 table
40 0000000000030001 its L1 table
40 ffffffffffff0000 its L1 table
48 0000000000000001 its refcount table
48 7fffffffffff0000 its refcount table
56 00000000 its refcount table, 0 clusters
56 ffffffff its refcount table
60 ffffffff its snapshot table
96 00000007 refcounts of 2\^7 bits
100 00000064 a header of 100 bytes
100 ffffffff a header of .* bytes
104 01 contradicts itself about compression
8 0000000000008000ffffffff the name of its backing file
8 ffffffffffffffff00000004 the name of its backing file
EOR
	for n in 0 1 71 103 500 65536 131072; do
		cp good a
		truncate -s $n a
		"$IMAGE_CHECK" qcow2:a >out.txt 2>err.txt && fail "$n bytes of it were opened"
		[ "$(wc -l <err.txt)" = 1 ] || fail "$n bytes: '$(cat err.txt)'"
	done
}

# Whatever the tables hold: errors, but no harm
mutants() {
	content
	for n in $(seq 1 40); do
		rm -f a
		if [ $((n % 2)) = 0 ]; then
			qemu-img convert -c -f raw -O qcow2 -o cluster_size=4K raw a
		else
			qemu-img convert -f raw -O qcow2 -o cluster_size=4K raw a
		fi
		python3 - a "$n" <<'PY'
import random, sys
rnd = random.Random(int(sys.argv[2]))
with open(sys.argv[1], "r+b") as f:
    head = f.read(112)
    l1 = int.from_bytes(head[40:48], "big")
    table = int.from_bytes(head[48:56], "big")
    f.seek(l1)
    l2 = int.from_bytes(f.read(8), "big") & 0xfffffffffffe00
    f.seek(table)
    block = int.from_bytes(f.read(8), "big")
    for i in range(rnd.randrange(1, 30)):
        at = rnd.choice([l1, l2, l2, l2, table, block]) + rnd.randrange(0, 400)
        f.seek(at)
        f.write(bytes(rnd.randrange(256) for _ in range(rnd.randrange(1, 9))))
PY
		cp raw model
		harmless a $n 200
	done
}

"$1"
