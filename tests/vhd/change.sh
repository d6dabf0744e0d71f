#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# change.sh CASE: other sizes, other parents.
. "$(dirname "$0")/lib.sh"
. "$images/change.sh"
need qemu-img qemu-io python3

# libvhdi (20210425) goes by the size that an image was made with
sizes() {
	local kind size
	grown same 150 cluster_size=4K cluster_size=2M subformat=fixed
	refuses 'a: a disk of .*2040 GiB' "$TAP_IMG" resize -q -f vhd a 2041G
	# Virtual PC and QEMU go by a geometry, which cannot tell every size
	for kind in dynamic fixed; do
		rm -f a
		must qemu-img create -q -f vpc -o subformat=$kind a 9M
		size=$(qemu-img info -f vpc --output json a | sed -n 's/.*"virtual-size": //p')
		model "${size%%[!0-9]*}"
		cp a as_it_was
		writes a model ops=0
		must cmp a as_it_was
		theirs a model "$seed"
		grow a model 21M
		theirs a model "$seed"
		writes a model seed="$seed" ops=150
		same a model
	done
	# beyond what a footer is moved at once
	must "$TAP_IMG" create -q -f vhd -o subformat=fixed b 1M
	must "$TAP_IMG" resize -q -f vhd b 3G
	must qemu-io -f vpc -c 'read -P 0 0 2M' -c 'read -P 0 1G 2M' -c 'read -P 0 3070M 2M' b
	! grep -q 'Pattern verification failed' out.txt || fail "$(cat out.txt)"
	must cmp -n 1000 b <(head -c 3G /dev/zero)
	# a footer that the end of the file has run away from
	truncate -s +700M b
	must "$IMAGE_CHECK" vhd:b
	must "$TAP_IMG" resize -q -f vhd b 4G
	[ "$(stat -c %s b)" = $((4 << 30 | 512)) ] || fail "it has $(stat -c %s b) bytes"
}

# What lies past the end of the disk is not seen when that moves.
hidden() {
	local kind
	for kind in subformat=dynamic subformat=fixed; do
		rm -f a
		must "$TAP_IMG" create -q -f vhd -o $kind a 4M
		must qemu-io -f vpc -c 'write -P 7 0 4M' a
		edit a end:48=0000000000100200 # 1 MiB and a sector
		hides a
	done
	parent_is_larger
}

parents() {
	local block
	two_parents
	for block in 4K 2M; do
		rebased 150 $block
	done
	rebased_unsafe 150
}

with_seed "$1"
