#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vdi.sh CASE: random requests against a model, which qemu-img must read too, without a
# complaint of its check; what is put in order, and what is refused.
driver=vdi qemu=vdi
. "$(dirname "$0")/../images/lib.sh"
need qemu-img qemu-io python3
map=512 # where our images and qemu-img's have it

sound() { # IMAGE MODEL: nobody complains, and everybody reads the same
	checked "$1"
	must qemu-img check -q -f vdi "$1"
	same "$1" "$2"
}

ours() {
	must "$QCOW_CREATE" -q -f vdi 5001K a
	truncate -s 5001K model
	writes a model seed="$seed" ops=1000
	writes a model seed="$seed" ops=1000 align=4096 engine=libaio
	must "$QCOW_CREATE" -q -r -f vdi 5001K b # all space now
	truncate -s 0 model
	truncate -s 5001K model
	sound b model
	writes b model seed="$seed" ops=300
	# blocks that qemu-img does not know
	truncate -s 0 model
	truncate -s 5001K model
	must "$QCOW_CREATE" -q -f vdi -c 4K 5001K c
	requests c model seed="$seed" ops=1000
	checked c
}

# Writers take turns: each leaves what the other goes on with.
turns() {
	local fixed n at
	for fixed in off on; do
		rm -f a model
		must qemu-img create -q -f vdi -o static=$fixed a 9M
		truncate -s 9M model
		for n in 1 2 3; do
			writes a model seed="$seed" ops=200
			at=$((RANDOM % 12000 * 512))
			must qemu-io -f vdi -c "write -P $n $at 1m" a
			must qemu-io -f raw -c "write -P $n $at 1m" model
			sound a model
		done
	done
}

# Places without an owner, as power cuts leave them: the last blocks move there.
holes() {
	local n
	for n in 1 2 3; do
		rm -f a model
		must "$QCOW_CREATE" -q -f vdi 9M a
		truncate -s 9M model
		for at in 8 3 5 0 7; do
			must qemu-io -f vdi -c "write -P $((at + n)) ${at}M 1m" a
			must qemu-io -f raw -c "write -P $((at + n)) ${at}M 1m" model
		done
		# places 0 to 4 are those of blocks 8, 3, 5, 0, 7
		case $n in
		1) poke a $((map + 8 * 4)) ffffffff
		   must qemu-io -f raw -c 'write -z 8M 1m' model ;;
		2) poke a $((map + 3 * 4)) ffffffff
		   poke a $((map + 5 * 4)) feffffff
		   must qemu-io -f raw -c 'write -z 3M 1m' -c 'write -z 5M 1m' model ;;
		3) poke a $((map + 7 * 4)) ffffffff
		   must qemu-io -f raw -c 'write -z 7M 1m' model ;;
		esac
		cp a before
		must "$IMAGE_CHECK" vdi:a
		grep -q 'leaks: [12]' out.txt && grep -qx 'corruptions: 0' out.txt ||
			fail "$(cat out.txt)"
		cmp a before || fail "a reader has changed it"
		writes a model seed="$seed" ops=0
		writes a model seed="$seed" ops=100
	done
	# room of a writer who was killed
	truncate -s +5M a
	must "$IMAGE_CHECK" vdi:a
	grep -qx 'leaks: 5' out.txt || fail "$(cat out.txt)"
	writes a model seed="$seed" ops=0
}

# A larger disk: entries where there is room for them, or the map moves.
grows() {
	local kind size now
	for kind in "dynamic 1M" "fixed 1M" "dynamic 4K" "fixed 4K"; do
		rm -f a model
		must "$TAP_IMG" create -q -f vdi -o "subformat=${kind% *},cluster_size=${kind#* }" a 2001K
		truncate -s 2001K model
		requests a model seed="$seed" ops=200
		for size in 2002K 3M 7M 64M; do
			now=$(numfmt --from=iec $size)
			must "$TAP_IMG" resize -q -f vdi a $size
			truncate -s "$now" model
			must "$TAP_IMG" compare -q -f vdi -F raw a model
			checked a
			requests a model seed="$seed" ops=200
			[ "${kind#* }" = 4K ] || sound a model
		done
	done
	refuses 'a: a VDI cannot be made smaller' "$TAP_IMG" resize -q --shrink -f vdi a 1M
	# what lies past the end of the disk is not seen
	must "$QCOW_CREATE" -q -f vdi 1M b
	must qemu-io -f vdi -c 'write -P 5 0 1m' b
	poke b 0x170 0000080000000000
	must "$TAP_IMG" resize -q -f vdi b 1M
	must qemu-io -f vdi -c 'read -P 5 0 512k' -c 'read -P 0 512k 512k' b
	! grep -q 'Pattern verification failed' out.txt || fail "$(cat out.txt)"
}

tables() {
	must "$QCOW_CREATE" -q -f vdi 9M good
	truncate -s 9M model
	must qemu-io -f vdi -c 'write -P 1 0 3m' good
	cp good a
	poke a $((map + 4)) 00000000
	"$IMAGE_CHECK" vdi:a >out.txt 2>&1
	[ $? = 3 ] && grep -q "block 1 has place 0, which is another's" out.txt ||
		fail "$(cat out.txt)"
	refuses "a: block 1 has place 0, which is another's" "$IMAGE_RANDOM" vdi:a model ops=1
	cp good a
	poke a $((map + 4)) 03000000
	"$IMAGE_CHECK" vdi:a >out.txt 2>&1
	grep -q 'block 1 has place 3, and only 3 are in use' out.txt || fail "$(cat out.txt)"
	grep -qx 'unreadable: 1048576' out.txt || fail "$(cat out.txt)"
	refuses 'a: block 1 has place 3, and only' "$IMAGE_RANDOM" vdi:a model ops=1
}

headers() {
	local at bytes what n
	must "$QCOW_CREATE" -q -f vdi 9M good
	while read -r at bytes what; do
		cp good a
		poke a "$at" "$bytes"
		refuses "a: $what" "$IMAGE_CHECK" vdi:a
	done <<'EOR'
0x40 00 no VDI image
0x44 01000000 VDI version 0.1
0x44 ffffffff VDI version 65535.65535
0x48 00000000 VDI version 1.1 with a header of 0 bytes
0x4c 00000000 a VDI of type 0
0x4c 03000000 is an undo image
0x4c 04000000 is a differencing image
0x4c ffffffff a VDI of type
0x154 00000000 its block map, 9 entries at 0,
0x154 01020000 its block map
0x154 00feffff its block map
0x158 00000000 its data, at 0,
0x158 00020000 its data
0x158 01100000 its data
0x168 00100000 sectors of 4096 bytes
0x170 0000000000000000 a disk of 0 bytes
0x170 ffffffffffffffff a disk of
0x170 0000a00000000000 10 blocks|9 blocks
0x178 00000000 blocks of 0 bytes
0x178 00003000 blocks of 3145728 bytes
0x178 00000080 blocks of 2147483648 bytes
0x17c 00020000 blocks with 512 bytes of their own
0x180 08000000 8 blocks of 1048576 bytes
0x180 ffffffff 4294967295 blocks
0x180 ffffff07 its block map
0x184 ffffffff 4294967295 places are in use
EOR
	for n in 0 1 71 400 511 512 540; do
		cp good a
		truncate -s $n a
		refuses 'a: ' "$IMAGE_CHECK" vdi:a
	done
	refuses 'does not name an image' "$QCOW_CREATE" -q -f vdi 0 b good
	refuses 'up to' "$QCOW_CREATE" -q -f vdi -c 4K 1T b
}

# Whatever the tables hold: errors, but no harm
mutants() {
	local n
	fresh 9M -c 64K
	mv a good
	requests good model seed=7 ops=100
	for n in $(seq 1 30); do
		cp good a
		python3 - a "$n" <<'PY'
import random, sys
rnd = random.Random(int(sys.argv[2]))
with open(sys.argv[1], "r+b") as f:
    for i in range(rnd.randrange(1, 12)):
        f.seek(rnd.choice([0x150, 0x178, 512, 512, 512]) + rnd.randrange(0, 40))
        f.write(bytes(rnd.choice([0, 1, 5, rnd.randrange(256)]) for _ in range(4)))
PY
		harmless a $n 100
	done
}

with_seed "$1"
