#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# random.sh CASE: random requests against a model, on images of many kinds; then
# qemu-img and libvhdi must read the same, and take turns in writing.
. "$(dirname "$0")/lib.sh"
. "$images/random.sh"
need qemu-img qemu-io python3

ours() {
	ours_of 1000 4K 64K 2M
}

reserved() {
	reserved_of 3000 2M
}

turns() {
	turns_of 300 2M force_size=on
}

overlay() {
	over_raw 1000 4K 2M
}

chain() {
	must "$QCOW_CREATE" -q -f vhd 9M one
	model 9M
	writes one model seed="$seed"
	must "$QCOW_CREATE" -q -f vhd -b vhd 0 two one
	cp model model-one
	libvhdi two model one
	writes two model seed="$seed"
	libvhdi two model one
	all_agree one model-one
	must "$QCOW_CREATE" -q -f vhd -b vhd -c 4K 0 three two
	writes three model seed="$seed"
}

with_seed "$1"
