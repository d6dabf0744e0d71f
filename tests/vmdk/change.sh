#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# change.sh CASE: other sizes, other parents, repaired leaks. Random runs have a new seed,
# which is printed: TEST_SEED=n repeats it.
. "$(dirname "$0")/lib.sh"
need qemu-img qemu-io python3

clean_check() { # IMAGE: nothing is wrong, and nothing leaks
	must "$IMAGE_CHECK" "vmdk:$1"
	grep -qx 'corruptions: 0' out.txt && grep -qx 'leaks: 0' out.txt || fail "$(cat out.txt)"
}

grow() { # IMAGE MODEL SIZE
	must "$TAP_IMG" resize -q -f vmdk "$1" "$3"
	truncate -s "$(numfmt --from=iec "$3")" "$2"
	must "$TAP_IMG" compare -q -f vmdk -F raw "$1" "$2"
	must qemu-img compare -q -f vmdk -F raw "$1" "$2"
}

sizes() {
	local kind size
	for kind in cluster_size=4K,zeroed_grain=on cluster_size=64K subformat=monolithicFlat; do
		clean
		model 2001K
		[ $kind = subformat=monolithicFlat ] && no_check=1 || no_check=
		must "$TAP_IMG" create -q -f vmdk -o $kind a.vmdk 2001K
		writes a.vmdk model seed="$seed" ops=150
		for size in 2002K 7M 100M; do
			grow a.vmdk model $size
			[ -n "$no_check" ] || must qemu-img check -q -f vmdk a.vmdk
			writes a.vmdk model seed="$seed" ops=150
		done
		theirs a.vmdk model "$seed"
		[ $kind = cluster_size=4K,zeroed_grain=on ] || # libvmdk knows no such grains
			libvmdk_reads a.vmdk model
	done
	refuses 'a.vmdk: a VMDK cannot be made smaller' \
		"$TAP_IMG" resize -q --shrink -f vmdk a.vmdk 1M
	# theirs
	clean
	model 5M
	no_check=
	must qemu-img create -q -f vmdk a.vmdk 5M
	theirs a.vmdk model "$seed"
	grow a.vmdk model 9G
	sound a.vmdk model
	clean
	must "$TAP_IMG" create -q -f vmdk base.vmdk 8M
	must "$TAP_IMG" create -q -f vmdk -b base.vmdk -F vmdk c.vmdk 4M
	refuses 'c.vmdk: its parent is larger.*zeroed_grain' "$TAP_IMG" resize -q -f vmdk c.vmdk 6M
}

touched() { # IMAGE AT...: a write there, read by both
	local at
	for at in "${@:2}"; do
		must qemu-io -f vmdk -c "write -P 7 $at 100K" "$1"
		rm -f got
		must "$TAP_IMG" dd -f vmdk -O raw if="$1" of=got bs=4K count=25 skip=$(($(numfmt \
			--from=iec "$at") / 4096))
		must cmp got <(head -c 100K /dev/zero | tr '\0' '\7')
	done
}

# The last extent becomes longer, up to 2047 MiB; then others follow.
split() {
	local kind
	for kind in twoGbMaxExtentSparse twoGbMaxExtentFlat; do
		clean
		no_check=1
		model 2001K
		must "$TAP_IMG" create -q -f vmdk -o subformat=$kind a.vmdk 2001K
		writes a.vmdk model seed="$seed" ops=100
		grow a.vmdk model 7M
		writes a.vmdk model seed="$seed" ops=100
		grow a.vmdk model 3G
		[ "$(grep -c '^RW ' a.vmdk)" = 2 ] || fail "$(cat a.vmdk)"
		theirs a.vmdk model "$seed"
		grow a.vmdk model 5G
		[ "$(grep -c '^RW 4192256 ' a.vmdk)" = 2 ] || fail "$(cat a.vmdk)"
		touched a.vmdk 1M 2046M 4093M
		must "$IMAGE_CHECK" vmdk:a.vmdk
	done
	# so many that their names take more than a sector, and the descriptor another file
	must "$TAP_IMG" create -q -f vmdk -o subformat=twoGbMaxExtentSparse b.vmdk 3G
	chmod 640 b.vmdk
	must "$TAP_IMG" resize -q -f vmdk b.vmdk 60G
	[ "$(grep -c '^RW ' b.vmdk)" = 31 ] && [ "$(stat -c %a b.vmdk)" = 640 ] || fail "$(cat b.vmdk)"
	[ ! -e b.vmdk.new ] || fail "b.vmdk.new was left"
	must qemu-img info -f vmdk b.vmdk
	grep -q 'virtual size: 60 GiB' out.txt || fail "$(cat out.txt)"
	touched b.vmdk 5M 2999M 59G
	# of QEMU's make, and what is in the way
	clean
	must qemu-img create -q -f vmdk -o subformat=twoGbMaxExtentSparse c.vmdk 3G
	touched c.vmdk 2500M
	echo mine >c-s003.vmdk
	sum=$(sha256sum <c.vmdk)
	refuses 'c-s003.vmdk' "$TAP_IMG" resize -q -f vmdk c.vmdk 5G
	[ "$(cat c-s003.vmdk)" = mine ] && [ "$(sha256sum <c.vmdk)" = "$sum" ] || fail "something changed"
	rm c-s003.vmdk
	must "$TAP_IMG" resize -q -f vmdk c.vmdk 7G
	touched c.vmdk 2500M 6900M
	must "$IMAGE_CHECK" vmdk:c.vmdk
}

# What lies past the end of the disk is not seen when that moves.
hidden() {
	local kind
	for kind in monolithicSparse monolithicFlat; do
		clean
		must "$TAP_IMG" create -q -f vmdk -o subformat=$kind a.vmdk 4M
		must qemu-io -f vmdk -c 'write -P 7 0 4M' a.vmdk
		sed -i 's/^RW 8192 /RW 2049 /' a.vmdk # 1 MiB and a sector
		must "$TAP_IMG" resize -q -f vmdk a.vmdk 6M
		rm -f got
		must "$TAP_IMG" convert -q -f vmdk -O raw a.vmdk got
		must cmp got <(head -c $((1048576 + 512)) /dev/zero | tr '\0' '\7'
			head -c $((5242880 - 512)) /dev/zero)
	done
}

parents() {
	local kind
	head -c 9M /dev/urandom >raw
	must qemu-img convert -f raw -O vmdk raw one.vmdk
	head -c 5M raw >other
	head -c 4M /dev/urandom >>other
	must qemu-img convert -f raw -O vmdk other two.vmdk
	for kind in theirs ours; do
		rm -f a.vmdk model
		cp raw model
		if [ $kind = ours ]; then
			must "$TAP_IMG" create -q -f vmdk -o cluster_size=4K -b one.vmdk -F vmdk a.vmdk
		else
			must qemu-img create -q -f vmdk -b one.vmdk -F vmdk a.vmdk
		fi
		writes a.vmdk model seed="$seed" ops=150
		must "$TAP_IMG" rebase -f vmdk -b two.vmdk -F vmdk a.vmdk
		sound a.vmdk model
		grep -aq '^parentFileNameHint=".*/two.vmdk"$' a.vmdk || fail "$(head -c 1024 a.vmdk | tail -c 512)"
		[ $((16#$(sed -n '/^CID=/{s///p;q}' two.vmdk))) = \
			$((16#$(sed -n '/^parentCID=/{s///p;q}' a.vmdk))) ] ||
			fail "it expects another CID of its parent"
		writes a.vmdk model seed="$seed" ops=150
		must "$TAP_IMG" rebase -f vmdk -b other -F raw a.vmdk
		must "$TAP_IMG" compare -q -f vmdk -F raw a.vmdk model
		mv two.vmdk gone
		must "$TAP_IMG" rebase -f vmdk --unsafe -b one.vmdk -F vmdk a.vmdk
		mv gone two.vmdk
		must "$TAP_IMG" rebase -f vmdk --unsafe -b two.vmdk -F vmdk a.vmdk
		sound a.vmdk model
		must "$TAP_IMG" rebase -f vmdk -b "" a.vmdk
		grep -aqx 'parentCID=ffffffff' a.vmdk || fail "it has a parent"
		sound a.vmdk model
		[ $kind = ours ] || libvmdk_reads a.vmdk model
		must "$TAP_IMG" rebase -f vmdk -b one.vmdk -F vmdk a.vmdk
		sound a.vmdk model
	done
	# an image over another one is written into it
	must "$TAP_IMG" create -q -f vmdk -b one.vmdk -F vmdk b.vmdk
	cp raw model
	writes b.vmdk model seed="$seed" ops=150
	must "$TAP_IMG" commit -q -f vmdk b.vmdk
	sound one.vmdk model
	must "$TAP_IMG" create -q -f vmdk -b one.vmdk -F vmdk c.vmdk
	long=$(head -c 200 /dev/zero | tr '\0' d)
	mkdir -p "$long/$long"
	cp two.vmdk "$long/$long/long.vmdk"
	refuses 'the names in its descriptor would be too long' \
		"$TAP_IMG" rebase -f vmdk --unsafe -b "$long/$long/long.vmdk" -F vmdk c.vmdk
	must "$IMAGE_CHECK" vmdk:c.vmdk
	must "$TAP_IMG" create -q -f vmdk -o subformat=monolithicFlat f.vmdk 1M
	refuses 'f.vmdk: a flat image has no parent' \
		"$TAP_IMG" rebase -f vmdk -b one.vmdk -F vmdk f.vmdk
}

# Grains that nobody has: the last ones move there, and the file becomes shorter.
leaks() {
	local kind n was
	for kind in cluster_size=4K cluster_size=64K,zeroed_grain=on; do
		clean
		head -c 5M /dev/urandom >model
		must "$TAP_IMG" convert -q -f raw -O vmdk -o $kind model a.vmdk
		for n in {1..20}; do # till a discard has met a whole grain
			timeout 300 "$IMAGE_RANDOM" vmdk:a.vmdk model seed="$seed$n" ops=300 >out.txt 2>&1 ||
				fail "$(cat out.txt)"
			"$IMAGE_CHECK" vmdk:a.vmdk >out.txt
			was=$(sed -n 's/^leaks: //p' out.txt)
			[ "$was" = 0 ] || break
		done
		[ "$was" -gt 0 ] || fail "nothing has leaked: $(cat out.txt)"
		size=$(stat -c %s a.vmdk)
		must "$TAP_IMG" check -r leaks -f vmdk a.vmdk
		grep -q "Repaired: 0 errors, $was leaks" out.txt || fail "$was leaks: $(cat out.txt)"
		[ "$(stat -c %s a.vmdk)" -lt "$size" ] || fail "the file is as long as before"
		[ "$(peek a.vmdk 72 1)" = 00 ] || fail "it is still marked as in use"
		clean_check a.vmdk
		sound a.vmdk model
		writes a.vmdk model seed="$seed" ops=150
	done
}

# What fails leaves nothing, under no name.
failures() {
	local kind
	for kind in monolithicFlat twoGbMaxExtentSparse monolithicSparse streamOptimized; do
		clean
		head -c 3M /dev/urandom >raw
		# a source that cannot be read to its end
		must qemu-img convert -f raw -O qcow2 raw bad.qcow2
		truncate -s 1M bad.qcow2
		"$TAP_IMG" convert -q -f qcow2 -O vmdk -o subformat=$kind bad.qcow2 disk.vmdk 2>out.txt &&
			fail "$kind: it was converted"
		[ -z "$(find . -name '*disk*')" ] || fail "$kind: left $(find . -name '*disk*')"
	done
	# what was there before is not ours to remove
	echo something >disk-flat.vmdk
	"$TAP_IMG" convert -q -f raw -O vmdk -o subformat=monolithicFlat raw disk.vmdk 2>out.txt &&
		fail "an extent was overwritten"
	[ "$(cat disk-flat.vmdk)" = something ] || fail "a file that was there has changed"
}

with_seed "$1"
