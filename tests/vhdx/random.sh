#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# random.sh CASE: random requests against a model, on images of many kinds; then
# qemu-img and libvhdi must read the same, and take turns in writing.
. "$(dirname "$0")/lib.sh"
. "$images/random.sh"
need qemu-img qemu-io python3

ours() {
	ours_of 600 1M 32M
}

kinds() {
	local kind
	must "$QCOW_CREATE" -q -f vhdx -c 1M 9M one
	model 9M
	writes one model seed="$seed" ops=300
	for kind in dynamic fixed; do # of 4096: QEMU knows no such sectors
		rm -f a
		must "$TAP_IMG" convert -q -f vhdx -O vhdx -o subformat=$kind,sector=4096 one a
		must "$TAP_IMG" info vhdx:a
		grep -qx "subformat: $kind" out.txt && grep -qx 'sector-size: 4096' out.txt ||
			fail "$(cat out.txt)"
		sound a
		must "$TAP_IMG" compare vhdx:a aio:model
		libvhdi a model
	done
	reserved_of 400 2M
}

turns() {
	turns_of 200 1M block_size=1M
}

overlay() {
	over_raw 600 1M 2M
}

# Bitmaps of several pages, and more changed ones than an entry of the log takes. By hand:
# it reads gigabytes of holes for a minute.
wide() {
	truncate -s 3G raw
	head -c 8M /dev/urandom | dd of=raw bs=1M seek=1500 conv=notrunc status=none
	must "$TAP_IMG" create -q -f vhdx -o log=1M -b raw -F raw a
	cp --sparse=always raw model
	writes a model seed="$seed" ops=1200
}

chain() {
	must "$QCOW_CREATE" -q -f vhdx -c 1M 9M one
	model 9M
	writes one model seed="$seed"
	mkdir -p sub
	must "$QCOW_CREATE" -q -f vhdx -b vhdx 0 sub/two one
	cp model model-one
	writes sub/two model seed="$seed"
	libvhdi sub/two model one
	all_agree one model-one
	must "$QCOW_CREATE" -q -f vhdx -b vhdx -c 1M 0 three sub/two
	writes three model seed="$seed"
	must "$TAP_IMG" compare vhdx:three aio:model
}

with_seed "$1"
