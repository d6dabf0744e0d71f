#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# change.sh CASE: other sizes, other parents. Random runs have a new seed, which is printed:
# RANDOM_SEED=n repeats it.
. "$(dirname "$0")/lib.sh"
need qemu-img qemu-io python3

grow() { # IMAGE MODEL SIZE
	must "$TAP_IMG" resize -q -f vhd "$1" "$3"
	truncate -s "$(numfmt --from=iec "$3")" "$2"
	must "$TAP_IMG" compare -q -f vhd -F raw "$1" "$2"
	sound "$1"
}

# libvhdi (20210425) goes by the size that an image was made with
sizes() {
	local kind size
	for kind in cluster_size=4K cluster_size=2M kind=fixed; do
		rm -f a model
		must "$TAP_IMG" create -q -f vhd -o $kind a 2001K
		truncate -s 2001K model
		writes a model seed="$seed" ops=150
		for size in 2002K 7M 40M; do
			grow a model $size
			must qemu-img compare -q -f vpc -F raw a model
			writes a model seed="$seed" ops=150
		done
	done
	refuses 'a: a VHD cannot be made smaller' "$TAP_IMG" resize -q --shrink -f vhd a 1M
	refuses 'a: a disk of .*2040 GiB' "$TAP_IMG" resize -q -f vhd a 2041G
	# Virtual PC and QEMU go by a geometry, which cannot tell every size
	for kind in dynamic fixed; do
		rm -f a model
		must qemu-img create -q -f vpc -o subformat=$kind a 9M
		truncate -s "$(qemu-img info -f vpc --output json a | sed -n 's/.*"virtual-size": \([0-9]*\).*/\1/p')" model
		cp a as_it_was
		writes a model ops=0
		must cmp a as_it_was
		theirs a model 9000000
		grow a model 21M
		theirs a model 20000000
		writes a model seed="$seed" ops=150
		must qemu-img compare -q -f vpc -F raw a model
	done
	# beyond what a footer is moved at once
	must "$TAP_IMG" create -q -f vhd -o kind=fixed b 1M
	must "$TAP_IMG" resize -q -f vhd b 3G
	must qemu-io -f vpc -c 'read -P 0 0 2M' -c 'read -P 0 1G 2M' -c 'read -P 0 3070M 2M' b
	! grep -q 'Pattern verification failed' out.txt || fail "$(cat out.txt)"
	must cmp -n 1000 b <(head -c 3G /dev/zero)
	# a footer that the end of the file has run away from
	truncate -s +700M b
	must "$QCOW_CHECK" vhd:b
	must "$TAP_IMG" resize -q -f vhd b 4G
	[ "$(stat -c %s b)" = $((4 << 30 | 512)) ] || fail "it has $(stat -c %s b) bytes"
}

# What lies past the end of the disk is not seen when that moves.
hidden() {
	local kind
	for kind in kind=dynamic kind=fixed; do
		rm -f a
		must "$TAP_IMG" create -q -f vhd -o $kind a 4M
		must qemu-io -f vpc -c 'write -P 7 0 4M' a
		edit a end:48=0000000000100200 # 1 MiB and a sector
		must "$TAP_IMG" resize -q -f vhd a 3M
		rm -f got
		must "$TAP_IMG" convert -q -f vhd -O raw a got
		must cmp got <(head -c $((1048576 + 512)) /dev/zero | tr '\0' '\7'
			head -c $((2097152 - 512)) /dev/zero)
	done
	rm a
	must "$TAP_IMG" create -q -f vhd base 8M
	must "$TAP_IMG" create -q -f vhd -b base -F vhd a 4M
	refuses 'a: its parent is larger than it is' "$TAP_IMG" resize -q -f vhd a 6M
}

parents() {
	local block
	head -c 9M /dev/urandom >raw
	must "$TAP_IMG" convert -q -f raw -O vhd raw one
	head -c 5M raw >other.raw
	head -c 4M /dev/urandom >>other.raw
	must "$TAP_IMG" convert -q -f raw -O vhd other.raw two
	for block in 4K 2M; do
		rm -f a model
		must "$TAP_IMG" create -q -f vhd -o cluster_size=$block -b one -F vhd a
		cp raw model
		writes a model seed="$seed" ops=150
		must "$TAP_IMG" rebase -f vhd -b two -F vhd a
		must "$TAP_IMG" info a
		grep -q "backing-file: .*/two" out.txt || grep -q '/two' out.txt || fail "$(cat out.txt)"
		must "$TAP_IMG" compare -q -f vhd -F raw a model
		libvhdi a model two
		writes a model seed="$seed" ops=150
		must "$TAP_IMG" rebase -f vhd -b other.raw -F raw a
		must "$TAP_IMG" compare -q -f vhd -F raw a model
		mv two gone # --unsafe wants none of them
		must "$TAP_IMG" rebase -f vhd --unsafe -b one -F vhd a
		mv gone two
		must "$TAP_IMG" rebase -f vhd --unsafe -b two -F vhd a
		must "$TAP_IMG" compare -q -f vhd -F raw a model
		sound a
		must "$TAP_IMG" rebase -f vhd -b "" a
		all_agree a model
		must "$TAP_IMG" rebase -f vhd -b one -F vhd a
		must "$TAP_IMG" compare -q -f vhd -F raw a model
		writes a model seed="$seed" ops=150
		must "$TAP_IMG" rebase -f vhd -b "" a
		all_agree a model
		sound a
	done
	# what an image does not hold is what the new one says
	must "$TAP_IMG" create -q -f vhd -b one -F vhd b
	must "$TAP_IMG" rebase -f vhd --unsafe -b two -F vhd b
	must "$TAP_IMG" compare -q -f vhd -F raw b other.raw
	must "$TAP_IMG" rebase -f vhd --unsafe -b one -F vhd b
	cp raw model
	writes b model seed="$seed" ops=150
	must "$TAP_IMG" commit -q -f vhd b
	all_agree one model
	must "$TAP_IMG" create -q -f vhd -o kind=fixed f 1M
	refuses 'f: a fixed VHD lies over nothing' "$TAP_IMG" rebase -f vhd -b one -F vhd f
}

seed=${RANDOM_SEED:-$((RANDOM * 32768 + RANDOM))}
RANDOM=$((seed % 32768))
echo "seed=$seed"
"$1"
