#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# random.sh CASE: random requests against a model, on images of many kinds; then
# qemu-img and libvhdi must read the same, and take turns in writing. Each run has a
# new seed, which is printed where it fails: RANDOM_SEED=n repeats it.
. "$(dirname "$0")/lib.sh"
need qemu-img qemu-io python3

ours() { # SEED
	for block in 1M 32M; do
		rm -f a model
		must "$QCOW_CREATE" -q -f vhdx -c $block 5001K a
		truncate -s 5001K model
		writes a model seed="$1" ops=600
		all_agree a model
		writes a model seed="$1" ops=600 align=4096 engine=libaio
		all_agree a model
	done
}

kinds() {
	must "$QCOW_CREATE" -q -f vhdx -c 1M 9M one
	truncate -s 9M model
	writes one model seed="$1" ops=300
	for kind in dynamic fixed; do # of 4096: QEMU knows no such sectors
		rm -f a
		must "$TAP_IMG" convert -q -f vhdx -O vhdx -o kind=$kind,sector=4096 one a
		must "$TAP_IMG" info vhdx:a
		grep -qx "kind: $kind" out.txt && grep -qx 'sector-size: 4096' out.txt ||
			fail "$(cat out.txt)"
		sound a
		must "$TAP_IMG" compare vhdx:a aio:model
		libvhdi a model
	done
	rm -f a model
	must "$QCOW_CREATE" -q -r -f vhdx -c 2M 9M a
	truncate -s 9M model
	all_agree a model
	sound a
	grep -qx 'allocated: 5 of 5' out.txt || fail "$(cat out.txt)"
	writes a model seed="$1" ops=400
	all_agree a model
}

# Writers take turns: each leaves what the other goes on with.
turns() {
	local kind size=$((9 * 1024 * 1024))
	for kind in dynamic fixed; do
		rm -f a model
		must qemu-img create -q -f vhdx -o subformat=$kind,block_size=1M a 9M
		truncate -s 9M model
		for n in 1 2 3; do
			writes a model seed="$1" ops=200
			all_agree a model
			theirs a model $size
			sound a
		done
	done
	rm -f a model
	must "$QCOW_CREATE" -q -f vhdx -c 1M 9M a
	truncate -s 9M model
	for n in 1 2 3; do
		theirs a model $size
		sound a
		writes a model seed="$1" ops=200
		all_agree a model
	done
}

overlay() {
	head -c 9M /dev/urandom >raw
	for block in 1M 2M; do
		rm -f a model
		must "$QCOW_CREATE" -q -f vhdx -c $block 0 a raw
		cp raw model
		writes a model seed="$1" ops=600
		writes a model seed="$1" ops=600 align=4096 engine=libaio
	done
}

# Bitmaps of several pages, and more changed ones than an entry of the log takes.
wide() {
	truncate -s 3G raw
	head -c 8M /dev/urandom | dd of=raw bs=1M seek=1500 conv=notrunc status=none
	must "$TAP_IMG" create -q -f vhdx -o log=1M -b raw -F raw a
	cp --sparse=always raw model
	writes a model seed="$1" ops=1200
}

chain() {
	must "$QCOW_CREATE" -q -f vhdx -c 1M 9M one
	truncate -s 9M model
	writes one model seed="$1"
	mkdir -p sub
	must "$QCOW_CREATE" -q -f vhdx -b vhdx 0 sub/two one
	cp model model-one
	writes sub/two model seed="$1"
	libvhdi sub/two model one
	all_agree one model-one
	must "$QCOW_CREATE" -q -f vhdx -b vhdx -c 1M 0 three sub/two
	writes three model seed="$1"
	must "$TAP_IMG" compare vhdx:three aio:model
}

seed=${RANDOM_SEED:-$((RANDOM * 32768 + RANDOM))}
RANDOM=$((seed % 32768))
echo "seed=$seed"
"$1" "$seed"
