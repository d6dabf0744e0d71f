#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# ops.sh CASE: snapshots, other sizes, other backing files, repairs.
. "$(dirname "$0")/lib.sh"
need qemu-img qemu-io

ops() { # IMAGE OP...
	must "$QCOW2_OPS" "qcow2:$1" "${@:2}"
}

is() { # IMAGE NAME RAW: that snapshot of the image reads so
	must qemu-img convert -l "snapshot.name=$2" -f qcow2 -O raw "$1" got
	cmp got "$3" || fail "snapshot $2 reads otherwise (qemu-img)"
	cp "$3" snapshot-model
	timeout 300 "$IMAGE_RANDOM" "qcow2:$1,snapshot=$2" snapshot-model ops=0 >out.txt 2>&1 ||
		must "$IMAGE_CHECK" "qcow2:$1,snapshot=$2"
}

snapshots() {
	local first second
	content
	for kind in cluster_size=4K cluster_size=64K,compat=0.10 cluster_size=512,refcount_bits=4 \
		cluster_size=16K,extended_l2=on; do
		rm -f a
		must qemu-img convert -f raw -O qcow2 -o $kind raw a
		cp raw model
		ops a make one
		sound a model
		writes a model ops=300
		cp model second
		ops a make two
		writes a model ops=300
		is a one raw
		is a two second
		ops a list
		[ "$(cat out.txt)" = "$(printf '1 one %s\n2 two %s' $((9 * 1048576 + 1536)) $((9 * 1048576 + 1536)))" ] ||
			fail "list: $(cat out.txt)"
		must qemu-img snapshot -l a
		[ "$(grep -c 'one\|two' out.txt)" = 2 ] || fail "qemu-img lists: $(cat out.txt)"
		ops a apply one
		sound a raw
		cp raw model
		writes a model ops=200
		ops a delete one
		sound a model
		is a two second
		ops a apply 2 # by id
		sound a second
		must qemu-img snapshot -d two a
		sound a second
		writes a second ops=200
		ops a make three
		ops a delete three
		sound a second
		refuses "a: has no snapshot 'four'" "$QCOW2_OPS" qcow2:a delete four
		refuses "a: has no snapshot 'four'" "$IMAGE_CHECK" qcow2:a,snapshot=four
		ops a make x
		refuses "a: 'x' is a snapshot's name already" "$QCOW2_OPS" qcow2:a make x
	done
	image a 1M -o refcount_bits=1
	must qemu-io -f qcow2 -c 'write 0 64k' a
	refuses 'too small for another' "$QCOW2_OPS" qcow2:a make one
	truncate -s 1M model
	must qemu-img check -q -f qcow2 a
}

# QEMU leaves bits 63 in the L1 tables of its snapshots.
theirs() {
	content
	must qemu-img convert -f raw -O qcow2 -o cluster_size=4K raw a
	must qemu-img snapshot -c one a
	cp raw model
	writes a model ops=300
	ops a apply one
	sound a raw
	cp raw model
	writes a model ops=300
	is a one raw
}

# A longer L1 table and a snapshot need more clusters than the refcount table counts.
tables() {
	for kib in 1980 1982 1984 1986; do
		image a 4M -o cluster_size=512,refcount_bits=64
		must qemu-io -f qcow2 -c "write -P 7 0 ${kib}K" a
		cp a b
		ops a make one
		ops b resize 104857600
		for name in a b; do
			must qemu-img check -q -f qcow2 $name
			must "$IMAGE_CHECK" qcow2:$name
			must qemu-io -f qcow2 -c "read -P 7 0 ${kib}K" $name
		done
	done
	# its L1 would not lie in one block of refcounts
	timeout 300 "$QCOW2_OPS" qcow2:a resize 1073741824 >out.txt 2>&1
	[ $? = 1 ] || fail "it can be too large: $(cat out.txt)"
	must qemu-img check -q -f qcow2 a
}

sizes() {
	content
	for kind in cluster_size=512 cluster_size=64K,compat=0.10 cluster_size=4K; do
		rm -f a
		must qemu-img convert -f raw -O qcow2 -o $kind raw a
		cp raw model
		for size in 20M 5632K 40M 7M 8M; do
			size=$(numfmt --from=iec "$size")
			ops a resize "$size"
			truncate -s "$size" model
			sound a model
		done
		writes a model ops=300
	done
	# the last cluster: compressed, of a snapshot too, with subclusters
	for kind in cluster_size=64K cluster_size=16K,extended_l2=on; do
		for way in -c ''; do
			rm -f a
			must qemu-img convert $way -f raw -O qcow2 -o $kind raw a
			must qemu-img snapshot -c s a
			cp raw model
			ops a resize $((8 * 1048576 + 2560))
			truncate -s $((8 * 1048576 + 2560)) model
			sound a model
			ops a resize $((11 * 1048576 + 512))
			truncate -s $((11 * 1048576 + 512)) model
			sound a model
			writes a model ops=50
			must "$TAP_IMG" compare -q qcow2:a,snapshot=s -F raw raw
		done
	done
	# nothing of a larger backing file may come to light
	image a 4M -b raw -F raw
	head -c 4M raw >model
	ops a resize 8388608
	truncate -s 8M model
	sound a model
	writes a model ops=300
}

backing() {
	content
	cp raw other
	image a 10M -b raw -F raw
	cp raw model
	truncate -s 10M model
	writes a model ops=300
	ops a backing "$work/other" raw
	rm raw
	must qemu-img info a
	grep -q "backing file: $work/other" out.txt || fail "$(cat out.txt)"
	sound a model
	must "$QCOW_CREATE" -q -f qcow2 -b qcow2 0 top a
	ops top backing other raw
	must qemu-img info top
	grep -q 'backing file format: raw' out.txt || fail "$(cat out.txt)"
}

# Compressed by us: others read it, and we write over it.
packs() {
	content
	for kind in cluster_size=64K cluster_size=4K cluster_size=64K,compression_type=zstd \
		cluster_size=16K,refcount_bits=1 cluster_size=1K,refcount_bits=2; do
		image a $((9 * 1048576 + 1536)) -o $kind
		must "$TAP_IMG" convert -q -n -c -f raw -O qcow2 raw a
		must qemu-img check -f qcow2 a
		[ $kind = cluster_size=16K,refcount_bits=1 ] ||
			grep -q '[1-9][0-9.]*% compressed' out.txt || fail "$kind: $(cat out.txt)"
		sound a raw
		cp raw model
		writes a model ops=500
		must "$TAP_IMG" convert -q -n -c -f raw -O qcow2 raw a
		sound a raw
	done
}

repairs() {
	content
	rm -f a
	must qemu-img convert -f raw -O qcow2 -o cluster_size=4K raw a
	# the refcount of a cluster in use goes down, that of a free one up
	python3 - a <<'PY'
import sys
with open(sys.argv[1], "r+b") as f:
    head = f.read(112)
    f.seek(int.from_bytes(head[48:56], "big"))
    block = int.from_bytes(f.read(8), "big")
    f.seek(block + 2 * 40)
    f.write(b"\0\0\0\0\0\3")
    f.seek(0, 2)
    f.seek(block + 2 * (f.tell() // 4096 + 5 if f.tell() // 4096 < 2000 else 2040))
PY
	"$QCOW2_OPS" qcow2:a check >out.txt || fail "check: $(cat out.txt)"
	grep -q '^[1-9][0-9]* corruptions, 0 fixed; 1 leaks, 0 fixed' out.txt || fail "$(cat out.txt)"
	ops a repair leaks
	grep -q '1 leaks, 1 fixed' out.txt || fail "$(cat out.txt)"
	ops a repair all
	must "$QCOW2_OPS" qcow2:a check
	grep -q '^0 corruptions, 0 fixed; 0 leaks, 0 fixed' out.txt || fail "$(cat out.txt)"
	sound a raw
	# a table that shows data for a block: they are not written over
	must qemu-img convert -f raw -O qcow2 -o cluster_size=4K raw a
	python3 - a <<'PY'
import sys
with open(sys.argv[1], "r+b") as f:
    def get(at):
        f.seek(at)
        return int.from_bytes(f.read(8), "big") & 0x00fffffffffffe00
    l1, table = get(40), get(48)
    tables = [get(l1 + 8 * i) for i in range(4)]
    data = [get(at + 8 * i) for at in tables if at for i in range(512)]
    f.seek(table)
    f.write(next(at for at in data if at).to_bytes(8, "big"))
PY
	"$QCOW2_OPS" qcow2:a repair all >out.txt 2>&1
	timeout 300 qemu-img compare -q -f qcow2 -F raw a raw || fail "repair wrote over data"
}

"$1"
