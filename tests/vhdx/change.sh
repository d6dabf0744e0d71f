#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# change.sh CASE: other sizes, other parents.
. "$(dirname "$0")/lib.sh"
. "$images/change.sh"
need qemu-img qemu-io python3

sizes() {
	grown all_agree 100 cluster_size=1M cluster_size=32M subformat=fixed,cluster_size=1M
	refuses 'a: a disk of .* 64 TiB' "$TAP_IMG" resize -q -f vhdx a 65T
	# of QEMU's make; and over a parent, from one bitmap to three
	rm -f a
	for options in '' log_size=4M; do # the gaps in QEMU's are no leaks
		must qemu-img create -q -f vhdx ${options:+-o $options} a 20M
		must "$TAP_IMG" check -f vhdx a
		must qemu-io -f vhdx -c 'write 18M 64k' a
		must "$TAP_IMG" check -f vhdx a
	done
	must qemu-img create -q -f vhdx -o block_size=1M a 3M
	model 3M
	theirs a model "$seed"
	grow a model 21M
	theirs a model "$seed"
	all_agree a model
	head -c 3M /dev/urandom >raw
	must "$TAP_IMG" create -q -f vhdx -b raw -F raw o
	must "$TAP_IMG" resize -q -f vhdx o 9G
	must "$TAP_IMG" bench -w -c 10 -s 64K -o 8G -f vhdx o
	must "$TAP_IMG" check vhdx:o
}

# A block table that has no room moves to the end.
table() {
	must "$TAP_IMG" create -q -f vhdx -o cluster_size=1M a 100G
	must qemu-io -f vhdx -c 'write -P 5 99G 300K' a
	must "$TAP_IMG" resize -q -f vhdx a 1T
	must qemu-io -f vhdx -c 'write -P 6 1023G 300K' -c 'write -P 7 3M 300K' a
	must "$TAP_IMG" check vhdx:a # without reading all of it
	must "$TAP_IMG" resize -q -f vhdx a 1025G
	must qemu-img check -q -f vhdx a
	must qemu-io -f vhdx -c 'read -P 5 99G 300K' -c 'read -P 6 1023G 300K' -c 'read -P 7 3M 300K' \
		-c 'read -P 0 1023500M 200K' a
	! grep -q 'Pattern verification failed' out.txt || fail "$(cat out.txt)"
	must "$TAP_IMG" check vhdx:a # without reading all of it
}

# What lies past the end of the disk is not seen when that moves.
hidden() {
	must "$TAP_IMG" create -q -f vhdx a 4M
	must qemu-io -f vhdx -c 'write -P 7 0 4M' a
	edit a value size $((1048576 + 512))
	hides a
	# what the parent has past the end
	rm -f a got
	truncate -s 8M base.raw
	must "$TAP_IMG" create -q -f vhdx base 8M
	must "$TAP_IMG" create -q -f vhdx -b base -F vhdx a 4M
	must qemu-io -f raw -c 'write -P 7 0 8M' base.raw
	must "$TAP_IMG" convert -q -n -f raw -O vhdx base.raw base
	must "$TAP_IMG" rebase -q --unsafe -f vhdx -b base -F vhdx a
	must "$TAP_IMG" resize -q -f vhdx a 6M
	must "$TAP_IMG" convert -q -f vhdx -O raw a got
	must cmp got <(head -c 4M base.raw; head -c 2M /dev/zero)
}

parents() {
	two_parents
	rebased 100 1M
	rebased_unsafe 100
}

with_seed "$1"
