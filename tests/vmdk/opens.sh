#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# opens.sh CASE: what is opened, marked, mended or refused.
. "$(dirname "$0")/lib.sh"
need qemu-img qemu-io python3

reads() { # SPEC MODEL: ours reads what the model holds, and changes nothing
	cp --preserve=timestamps model model.was 2>/dev/null
	sha256sum ./*.vmdk >sums
	must "$IMAGE_CHECK" "$1"
	must "$TAP_IMG" compare -q -f vmdk -F raw "${1#vmdk:}" "$2"
	must sha256sum -c --quiet sums
}

# Kinds that are read only: what we see is what qemu-img sees, and what is meant.
kinds() {
	content
	for kind in cowd sesparse footer; do
		clean
		must python3 "$here/make_esx.py" $kind raw a.vmdk
		must qemu-img compare -q -f vmdk -F raw a.vmdk raw
		reads vmdk:a.vmdk raw
		what='can be read, not written'
		timeout 300 "$IMAGE_RANDOM" vmdk:a.vmdk raw ops=1 >out.txt 2>&1 && fail "$kind was written"
		grep -q "$what" out.txt || fail "says '$(cat out.txt)'"
	done
	clean
	must qemu-img convert -f raw -O vmdk -o subformat=streamOptimized raw a.vmdk
	reads vmdk:a.vmdk raw
	truncate -s -512 a.vmdk # an extent alone
	must python3 "$here/make_esx.py" sesparse raw b.vmdk
	must "$IMAGE_CHECK" vmdk:b-delta.vmdk
}

# Tools make an image under another name: its extents have the right ones.
by_tools() {
	content
	for format in monolithicSparse monolithicFlat twoGbMaxExtentSparse twoGbMaxExtentFlat; do
		clean
		must "$TAP_IMG" convert -q -f raw -O vmdk -o subformat=$format raw disk.vmdk
		must qemu-img compare -q -f vmdk -F raw disk.vmdk raw
		[ "$(ls | grep -c vmdk)" = $(($(head -c 16384 disk.vmdk | grep -ac '^RW') + \
			$([ $format = monolithicSparse ] && echo 0 || echo 1))) ] ||
			fail "$format: $(ls)"
		must "$TAP_IMG" compare -q -f vmdk -F raw disk.vmdk raw
	done
	refuses 'subformat fullDevice cannot be made' \
		"$TAP_IMG" create -q -f vmdk -o subformat=fullDevice new.vmdk 1M
}

libvmdk() {
	/usr/bin/python3 -c 'import pyvmdk' 2>/dev/null || skip "python3-libvmdk is not installed"
	for format in monolithicSparse twoGbMaxExtentSparse monolithicFlat; do
		clean
		model 9M
		must "$VMDK_CREATE" a.vmdk 9437184 $format
		no_check=1
		writes a.vmdk model
		libvmdk_reads a.vmdk model
	done
}

cid() { # IMAGE
	grep -a -m1 '^CID=' "$1"
}

# A new CID at the first write, before it; none if nothing is written.
cids() {
	content
	cp raw model
	must qemu-img convert -f raw -O vmdk raw base.vmdk
	must "$QCOW_CREATE" -q -f vmdk -b vmdk 0 a.vmdk base.vmdk
	was=$(cid base.vmdk)
	timeout 300 "$IMAGE_RANDOM" vmdk:base.vmdk model ops=0 >/dev/null || fail "opening it"
	[ "$(cid base.vmdk)" = "$was" ] || fail "nothing was written, and its CID is another one"
	must "$IMAGE_CHECK" vmdk:a.vmdk
	timeout 300 "$IMAGE_RANDOM" vmdk:base.vmdk model ops=20 >/dev/null || fail "writing it"
	[ "$(cid base.vmdk)" != "$was" ] || fail "it was written, and its CID is the same"
	refuses 'a.vmdk: its parent .*base.vmdk has been changed: its CID is' "$IMAGE_CHECK" vmdk:a.vmdk
	must "$IMAGE_CHECK" vmdk:a.vmdk,stale-parent=on
	rm base.vmdk
	refuses 'a.vmdk: its parent: .*base.vmdk: No such file' "$IMAGE_CHECK" vmdk:a.vmdk
}

# Files that a descriptor names lie in its folder, wherever links lead.
folder() {
	mkdir -p in out
	must "$VMDK_CREATE" in/a.vmdk 1048576 monolithicFlat
	cp in/a-flat.vmdk out/a-flat.vmdk
	for name in "$work/out/a-flat.vmdk" ../out/a-flat.vmdk ../in/a-flat.vmdk; do
		sed "s,a-flat.vmdk,$name," in/a.vmdk >in/b.vmdk
		refuses 'names the extent .*, which is not in its folder' "$IMAGE_CHECK" vmdk:in/b.vmdk
		must "$IMAGE_CHECK" vmdk:in/b.vmdk,anywhere=on
	done
	ln -s ../out in/link
	ln -s ../out/a-flat.vmdk in/c-flat.vmdk
	for name in link/a-flat.vmdk c-flat.vmdk; do
		sed "s,a-flat.vmdk,$name," in/a.vmdk >in/b.vmdk
		refuses 'is not in its folder' "$IMAGE_CHECK" vmdk:in/b.vmdk
	done
	sed "s,a-flat.vmdk,nothing.vmdk," in/a.vmdk >in/b.vmdk
	refuses 'nothing.vmdk: No such file' "$IMAGE_CHECK" vmdk:in/b.vmdk
}

# The second copy of the tables is mended where an image was not closed, and only there.
second_copies() {
	must "$VMDK_CREATE" a.vmdk 9437184 monolithicSparse
	model 9M
	writes a.vmdk model seed=1
	[ "$(peek a.vmdk 72 1)" = 00 ] || fail "closed, and marked as in use"
	table=$(($(od -An -tu4 -j $(($(od -An -tu8 -j 48 -N 8 a.vmdk) * 512)) -N 4 a.vmdk) * 512))
	good=$(peek a.vmdk $table 64)
	poke a.vmdk $table 00000000ffff0000
	"$IMAGE_CHECK" vmdk:a.vmdk >out.txt
	[ $? = 3 ] || fail "two copies that differ: $(cat out.txt)"
	grep -q 'are not what its second copy says' out.txt || fail "says $(cat out.txt)"
	poke a.vmdk 72 01
	must "$IMAGE_CHECK" vmdk:a.vmdk
	[ "$(peek a.vmdk 72 1)" = 01 ] || fail "a reader has changed it"
	writes a.vmdk model ops=0
	[ "$(peek a.vmdk $table 64)" = "$good" ] || fail "it was not mended"
	[ "$(peek a.vmdk 72 1)" = 00 ] || fail "it is still marked as in use"
	must "$IMAGE_CHECK" vmdk:a.vmdk
	poke a.vmdk $table 00000000ffff0000
	"$TAP_IMG" check -f vmdk -r all a.vmdk >out.txt 2>&1
	grep -q 'Repaired: 1 errors' out.txt || fail "tap-img check: $(cat out.txt)"
	must "$IMAGE_CHECK" vmdk:a.vmdk
}

# Tables have places of their own: none in the descriptor, none in each other.
overlaps() {
	must "$VMDK_CREATE" good.vmdk 9437184 monolithicSparse
	must "$IMAGE_CHECK" vmdk:good.vmdk
	directory=$(($(od -An -tu8 -j 56 -N 8 good.vmdk) * 512))
	for sector in 07000000 "$(peek good.vmdk $(($(od -An -tu8 -j 48 -N 8 good.vmdk) * 512)) 4)"; do
		cp good.vmdk a.vmdk
		poke a.vmdk $directory "$sector"
		"$IMAGE_CHECK" vmdk:a.vmdk >out.txt
		[ $? = 3 ] || fail "a table where something else lies: $(cat out.txt)"
		grep -q 'lies where something else does' out.txt || fail "says $(cat out.txt)"
	done
}

headers() {
	must "$VMDK_CREATE" good.vmdk 9437184 monolithicSparse
	while read -r at bytes what; do
		cp good.vmdk a
		poke a "$at" "$bytes"
		refuses "$what" "$IMAGE_CHECK" vmdk:a
	done <<'EOR'
0 00 no VMDK image
4 00000000 VMDK version 0
4 04000000 VMDK version 4
8 08000000 has flags 0x8
8 01000100 compression method 0
12 0000000000000000 its size, 0 bytes, cannot be
12 ffffffffffffffff its size, .* bytes, cannot be
12 ffffffffffff0f00 grain tables are more than
20 0000000000000000 grains of 0 bytes
20 7f00000000000000 grains of 65024 bytes
20 0000000000000080 grains of
28 ffffffffffffffff its descriptor, .* does not lie
36 ffffffffffffffff its descriptor, .* does not lie
28 0000000000000800 its descriptor, .* does not lie
44 00000000 grain tables of 0 entries
44 ffffffff grain tables of
48 ffffffffffffffff its grain directory, .* does not lie
56 feffffffffffffff its grain directory, .* does not lie
56 ffffffffffffffff has no footer
56 0000000000000000 its grain directory
73 0d damaged by being moved as text
512 00 its descriptor names no extent
EOR
	for n in 0 1 72 511 512 600 10752 11000 13312; do
		cp good.vmdk a
		truncate -s $n a
		"$IMAGE_CHECK" vmdk:a >out.txt 2>err.txt && fail "$n bytes of it were opened"
		[ "$(wc -l <err.txt)" = 1 ] || fail "$n bytes: '$(cat err.txt)'"
	done
	head -c 1M /dev/urandom >raw
	for kind in cowd sesparse; do
		must python3 "$here/make_esx.py" $kind raw a.vmdk
		size=$(stat -c %s a-delta.vmdk)
		for at in $(seq 4 4 28) $(seq 32 16 200); do
			for bytes in ffffffff 00000080; do
				cp a-delta.vmdk b
				poke b "$at" $bytes
				timeout 300 "$IMAGE_CHECK" vmdk:b >out.txt 2>err.txt
				code=$?
				[ $code -lt 5 ] || fail "$kind, $bytes at $at: exit $code: $(cat err.txt)"
				[ $code != 1 ] || [ "$(wc -l <err.txt)" = 1 ] || fail "$(cat err.txt)"
			done
		done
		for n in 0 100 512 2048 2060 9000 $((size / 2)); do
			cp a-delta.vmdk b
			truncate -s $n b
			timeout 300 "$IMAGE_CHECK" vmdk:b >out.txt 2>err.txt
			code=$?
			[ $code = 1 ] || [ $code = 3 ] || [ $code = 4 ] || fail "$kind, $n bytes: exit $code"
		done
	done
}

descriptors() {
	must "$VMDK_CREATE" a.vmdk 1048576 monolithicFlat
	cp a.vmdk good
	while IFS='|' read -r change what; do
		sed "$change" good >b.vmdk
		refuses "$what" "$IMAGE_CHECK" vmdk:b.vmdk
	done <<'EOR'
s/^# Disk.*/hello/|no VMDK image
/^CID/d|its descriptor has no CID
s/^CID.*/CID=xyz/|a CID that is not
s/^CID.*/CID=123456789/|a CID that is not
s/^CID.*/&\n&/|line 4 of its descriptor: says again
/^RW/d|names no extent
s/^RW [0-9]*/RW/|an extent without a size
s/^RW [0-9]*/RW 0/|an extent without a size
s/^RW [0-9]*/RW 99999999999999999999999/|an extent without a size
s/^RW [0-9]*/RW 2049/|a-flat.vmdk: has 1048576 bytes, and 1049088 from 0
/^RW/s/0$/18014398509481983/|the offset of an extent is no number
/^RW/s/0$/9007199254740991/|a-flat.vmdk: has 1048576 bytes, and
s/FLAT/VMFSRDM/|extents of type 'VMFSRDM' are not supported
s/"a-flat.vmdk"/a-flat.vmdk/|an extent without the name of its file
s/"a-flat.vmdk"/""/|an extent without the name of its file
s/FLAT/SPARSE/|a-flat.vmdk: no sparse VMDK extent
s/^RW/NOACCESS/|its extent 0 may not be used
s/^parentCID.*/parentCID=00000001/|has a parent, but its descriptor does not say
s/^parentCID.*/&\nparentCID=1\nparentFileNameHint="c"/|has a parent, and extents that hide it
EOR
	{ cat good; for i in $(seq 600); do echo 'RW 1 ZERO'; done; } >b.vmdk
	refuses 'has more than 512 extents' "$IMAGE_CHECK" vmdk:b.vmdk
	{ cat good; head -c 2M /dev/zero | tr '\0' '#'; } >b.vmdk
	refuses 'a descriptor of .* bytes is too long' "$IMAGE_CHECK" vmdk:b.vmdk
	sed 's/^RW/RDONLY/' good >b.vmdk
	must "$IMAGE_CHECK" vmdk:b.vmdk
	truncate -s 1M model
	"$IMAGE_RANDOM" vmdk:b.vmdk model ops=1 >out.txt 2>&1 && fail "an extent to be read was written"
	grep -q 'its extent 0 is to be read only' out.txt || fail "says $(cat out.txt)"
	{ cat good; echo 'RW 4096 ZERO'; } >b.vmdk
	must "$IMAGE_CHECK" vmdk:b.vmdk
}

# Whatever header, descriptor and tables hold: errors, but no harm
mutants() {
	head -c 20K /dev/urandom >raw
	truncate -s 3M raw
	for kind in cowd sesparse footer; do
		must python3 "$here/make_esx.py" $kind raw $kind.vmdk
	done
	must qemu-img convert -f raw -O vmdk raw sparse.vmdk
	must qemu-img convert -f raw -O vmdk -o subformat=streamOptimized raw stream.vmdk
	"$FUZZ_MUTATE" vmdk runs=400 seed="$seed" raw=1 sparse.vmdk footer.vmdk stream.vmdk \
		cowd-delta.vmdk sesparse-delta.vmdk >out.txt 2>&1 || fail "$(tail -3 out.txt)"
	content
	for n in $(seq 1 8); do
		clean
		case $((n % 4)) in
		0) qemu-img convert -f raw -O vmdk -o subformat=streamOptimized raw a.vmdk ;;
		1) python3 "$here/make_esx.py" footer raw a.vmdk ;;
		*) qemu-img convert -f raw -O vmdk raw a.vmdk ;;
		esac
		python3 - a.vmdk "$n" <<'PY'
import os, random, sys
rnd = random.Random(int(sys.argv[2]))
size = os.path.getsize(sys.argv[1])
with open(sys.argv[1], "r+b") as f:
    for i in range(rnd.randrange(1, 30)):
        at = rnd.choice([rnd.randrange(0, 80), rnd.randrange(512, 1200),
                         rnd.randrange(10752, 18000), max(0, size - rnd.randrange(1, 5000))])
        f.seek(at)
        f.write(bytes(rnd.randrange(256) for _ in range(rnd.randrange(1, 9))))
PY
		cp raw model
		harmless a.vmdk $n 200
	done
}

with_seed "$1"
