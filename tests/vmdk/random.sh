#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# random.sh CASE: random requests against a model, on images of many kinds, ours and
# qemu-img's; then the other one must read the same and find nothing to complain of.
. "$(dirname "$0")/lib.sh"
need qemu-img qemu-io python3

ours() { # SEED
	for cluster in 4096 65536 1048576; do
		clean
		model 5001K
		must "$VMDK_CREATE" a.vmdk $((5001 * 1024)) monolithicSparse cluster=$cluster
		writes a.vmdk model seed="$1"
		theirs a.vmdk model "$1"
		writes a.vmdk model seed="$1" align=4096 engine=libaio
	done
}

zeroed_grains() {
	for who in ours theirs; do
		clean
		model 9M
		[ $who = theirs ] ||
			must "$VMDK_CREATE" a.vmdk 9437184 monolithicSparse zeroes
		[ $who = ours ] || must qemu-img create -q -f vmdk -o zeroed_grain=on a.vmdk 9M
		writes a.vmdk model seed="$1"
		theirs a.vmdk model "$1"
		writes a.vmdk model seed="$1"
	done
}

reserved() {
	clean
	model 9M
	must "$VMDK_CREATE" a.vmdk 9437184 monolithicSparse reserve
	[ $(($(stat -c %b a.vmdk) * 512)) -ge 9437184 ] || fail "its space was not taken"
	writes a.vmdk model seed="$1"
}

theirs_and_ours() {
	for format in monolithicSparse monolithicFlat twoGbMaxExtentSparse twoGbMaxExtentFlat; do
		clean
		content
		cp raw model
		must qemu-img convert -f raw -O vmdk -o subformat=$format raw a.vmdk
		no_check=
		[ "${format%Flat}" = "$format" ] || no_check=1 # it checks sparse ones only
		writes a.vmdk model seed="$1"
		theirs a.vmdk model "$1"
		writes a.vmdk model seed="$1" align=4096 engine=libaio
	done
}

# Extents of all kinds in a row, so short that requests lie in several.
mixed() {
	clean
	model 0
	must "$VMDK_CREATE" p1.vmdk 524288 monolithicSparse cluster=4096
	must "$VMDK_CREATE" p2.vmdk 524288 monolithicSparse
	must "$VMDK_CREATE" p3.vmdk 524288 monolithicFlat
	must "$VMDK_CREATE" p4.vmdk 524288 monolithicSparse
	must "$VMDK_CREATE" p5.vmdk 523776 monolithicSparse cluster=131072
	cat >a.vmdk <<-END
	# Disk DescriptorFile
	version=1
	CID=123
	parentCID=ffffffff
	createType="twoGbMaxExtentSparse"
	RW 1024 SPARSE "p1.vmdk"
	RW 1024 SPARSE "p2.vmdk"
	RW 1000 FLAT "p3-flat.vmdk" 24
	RW 24 FLAT "p3-flat.vmdk" 0
	RW 1024 SPARSE "p4.vmdk"
	RW 1023 SPARSE "p5.vmdk"
	END
	refuses 'p3-flat.vmdk: in use' "$IMAGE_RANDOM" vmdk:a.vmdk model
	sed -i '/RW 24 FLAT/d; s/RW 1000 FLAT.*/RW 1024 FLAT "p3-flat.vmdk" 0/' a.vmdk
	model $((5119 * 512))
	no_check=1
	# opened once: a second new one of three digits might be the first again
	writes a.vmdk model seed="$1" ops=50 reopen=0
	[ "$(grep -c '^CID=123$' a.vmdk)" = 0 ] || fail "its CID was not changed"
	writes a.vmdk model seed="$1"
	writes a.vmdk model seed="$1" align=4096 engine=libaio max=2097152 ops=400
	grep -Eq '^CID=[0-9a-f]{3}$' a.vmdk || fail "its CID is of another length"
}

deltas() {
	clean
	content
	must qemu-img convert -f raw -O vmdk raw base.vmdk
	cp raw model
	must qemu-img create -q -f vmdk -b base.vmdk -F vmdk a.vmdk
	writes a.vmdk model seed="$1"
	theirs a.vmdk model "$1"
	must "$QCOW_CREATE" -q -f vmdk -b vmdk 0 b.vmdk a.vmdk
	writes b.vmdk model seed="$1"
	theirs b.vmdk model "$1"
	must "$VMDK_CREATE" c.vmdk $((9 * 1048576 + 1536)) monolithicSparse backing=b.vmdk \
		format=vmdk cluster=4096 zeroes
	writes c.vmdk model seed="$1" align=4096 engine=libaio
	theirs c.vmdk model "$1"
	writes c.vmdk model seed="$1"
}

# Over an image of another format; only we know of such.
over_raw() {
	clean
	content
	cp raw model
	cp raw was
	must "$QCOW_CREATE" -q -f vmdk -b raw 0 a.vmdk raw
	for seed in "$1" "$1"1; do
		timeout 300 "$IMAGE_RANDOM" vmdk:a.vmdk model seed="$seed" >out.txt 2>&1 ||
			fail "$(cat out.txt)"
	done
	cmp raw was || fail "the image below was changed"
}

with_seed "$1"
