#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# change.sh CASE: other sizes, other parents. Random runs have a new seed, which is printed:
# RANDOM_SEED=n repeats it.
. "$(dirname "$0")/lib.sh"
need qemu-img qemu-io python3

grow() { # IMAGE MODEL SIZE
	must "$TAP_IMG" resize -q -f vhdx "$1" "$3"
	truncate -s "$(numfmt --from=iec "$3")" "$2"
	must "$TAP_IMG" compare -q -f vhdx -F raw "$1" "$2"
	sound "$1"
}

sizes() {
	local kind size
	for kind in cluster_size=1M cluster_size=32M kind=fixed,cluster_size=1M; do
		rm -f a model
		must "$TAP_IMG" create -q -f vhdx -o $kind a 2001K
		truncate -s 2001K model
		writes a model seed="$seed" ops=100
		for size in 2002K 7M 40M; do
			grow a model $size
			all_agree a model
			writes a model seed="$seed" ops=100
		done
	done
	refuses 'a: a VHDX cannot be made smaller' "$TAP_IMG" resize -q --shrink -f vhdx a 1M
	refuses 'a: a disk of .* 64 TiB' "$TAP_IMG" resize -q -f vhdx a 65T
	# of QEMU's make; and over a parent, from one bitmap to three
	rm -f a model
	must qemu-img create -q -f vhdx -o block_size=1M a 3M
	truncate -s 3M model
	theirs a model $((3 << 20))
	grow a model 21M
	theirs a model $((21 << 20))
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
	must "$TAP_IMG" resize -q -f vhdx a 3M
	must "$TAP_IMG" convert -q -f vhdx -O raw a got
	must cmp got <(head -c $((1048576 + 512)) /dev/zero | tr '\0' '\7'
		head -c $((2097152 - 512)) /dev/zero)
	rm a
	must "$TAP_IMG" create -q -f vhdx base 8M
	must "$TAP_IMG" create -q -f vhdx -b base -F vhdx a 4M
	refuses 'a: its parent is larger than it is' "$TAP_IMG" resize -q -f vhdx a 6M
}

parents() {
	head -c 9M /dev/urandom >raw
	must "$TAP_IMG" convert -q -f raw -O vhdx raw one
	head -c 5M raw >other.raw
	head -c 4M /dev/urandom >>other.raw
	must "$TAP_IMG" convert -q -f raw -O vhdx other.raw two
	must "$TAP_IMG" create -q -f vhdx -o cluster_size=1M -b one -F vhdx a
	cp raw model
	writes a model seed="$seed" ops=100
	must "$TAP_IMG" rebase -f vhdx -b two -F vhdx a
	must "$TAP_IMG" info vhdx:a
	grep -q '^backing-file: .*two$' out.txt || fail "$(cat out.txt)"
	must "$TAP_IMG" compare -q -f vhdx -F raw a model
	libvhdi a model two
	writes a model seed="$seed" ops=100
	must "$TAP_IMG" rebase -f vhdx -b other.raw -F raw a
	must "$TAP_IMG" compare -q -f vhdx -F raw a model
	mv two gone # --unsafe wants none of them
	must "$TAP_IMG" rebase -f vhdx --unsafe -b one -F vhdx a
	mv gone two
	must "$TAP_IMG" rebase -f vhdx --unsafe -b two -F vhdx a
	must "$TAP_IMG" compare -q -f vhdx -F raw a model
	sound a
	must "$TAP_IMG" rebase -f vhdx -b "" a
	all_agree a model
	must "$TAP_IMG" rebase -f vhdx -b one -F vhdx a
	must "$TAP_IMG" compare -q -f vhdx -F raw a model
	writes a model seed="$seed" ops=100
	must "$TAP_IMG" rebase -f vhdx -b "" a
	all_agree a model
	sound a
	# what an image does not hold is what the new one says
	must "$TAP_IMG" create -q -f vhdx -b one -F vhdx b
	must "$TAP_IMG" rebase -f vhdx --unsafe -b two -F vhdx b
	must "$TAP_IMG" compare -q -f vhdx -F raw b other.raw
	must "$TAP_IMG" rebase -f vhdx --unsafe -b one -F vhdx b
	cp raw model
	writes b model seed="$seed" ops=100
	must "$TAP_IMG" commit -q -f vhdx b
	all_agree one model
	must "$TAP_IMG" create -q -f vhdx -o kind=fixed f 1M
	refuses 'f: a fixed VHDX lies over nothing' "$TAP_IMG" rebase -f vhdx -b one -F vhdx f
}

seed=${RANDOM_SEED:-$((RANDOM * 32768 + RANDOM))}
RANDOM=$((seed % 32768))
echo "seed=$seed"
"$1"
