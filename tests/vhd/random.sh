#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# random.sh CASE: random requests against a model, on images of many kinds; then
# qemu-img and libvhdi must read the same, and take turns in writing. Each run has a
# new seed, which is printed where it fails: RANDOM_SEED=n repeats it.
. "$(dirname "$0")/lib.sh"
need qemu-img qemu-io python3

ours() { # SEED
	for block in 4K 64K 2M; do
		rm -f a model
		must "$QCOW_CREATE" -q -f vhd -c $block 5001K a
		truncate -s 5001K model
		writes a model seed="$1" ops=1000
		all_agree a model
		writes a model seed="$1" ops=1000 align=4096 engine=libaio
		all_agree a model
	done
}

reserved() {
	must "$QCOW_CREATE" -q -r -f vhd 9M a
	truncate -s 9M model
	all_agree a model
	sound a
	grep -qx 'allocated: 5 of 5' out.txt || fail "$(cat out.txt)"
	writes a model seed="$1"
	all_agree a model
}

# Writers take turns: each leaves what the other goes on with.
turns() {
	local kind size
	for kind in dynamic fixed; do
		rm -f a model
		must qemu-img create -q -f vpc -o subformat=$kind,force_size=on a 9M
		size=$((9 * 1024 * 1024))
		truncate -s $size model
		for n in 1 2 3; do
			writes a model seed="$1" ops=300
			all_agree a model
			theirs a model $size
			sound a
		done
	done
	rm -f a model
	must "$QCOW_CREATE" -q -f vhd 9M a
	truncate -s 9M model
	for n in 1 2 3; do
		theirs a model $size
		sound a
		writes a model seed="$1" ops=300
		all_agree a model
	done
}

overlay() {
	head -c 9M /dev/urandom >raw
	for block in 4K 2M; do
		rm -f a model
		must "$QCOW_CREATE" -q -f vhd -c $block 0 a raw
		cp raw model
		writes a model seed="$1" ops=1000
		writes a model seed="$1" ops=1000 align=4096 engine=libaio
	done
}

chain() {
	must "$QCOW_CREATE" -q -f vhd 9M one
	truncate -s 9M model
	writes one model seed="$1"
	must "$QCOW_CREATE" -q -f vhd -b vhd 0 two one
	cp model model-one
	libvhdi two model one
	writes two model seed="$1"
	libvhdi two model one
	all_agree one model-one
	must "$QCOW_CREATE" -q -f vhd -b vhd -c 4K 0 three two
	writes three model seed="$1"
}

seed=${RANDOM_SEED:-$((RANDOM * 32768 + RANDOM))}
RANDOM=$((seed % 32768))
echo "seed=$seed"
"$1" "$seed"
