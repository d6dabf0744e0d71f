#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# opens.sh CASE: what is opened, put in order, replayed or refused.
. "$(dirname "$0")/lib.sh"
need python3

# The fields in rows: header, log; regions and their entries (0: block table, 1:
# metadata); items of the metadata (0: parameters ... 4: identity), their values.
headers() {
	local commands what
	good 9M -c 1M
	while IFS='|' read -r commands what; do
		cp good a
		edit a $commands
		refuses "a: $what" "$IMAGE_CHECK" vhdx:a
	done <<'EOR'
bytes 0 1 0|no VHDX image
header 66 2 0|VHDX version 0
header 66 2 2|VHDX version 2
header 66 2 -1|VHDX version 65535
header 8 8 -1|its header cannot be counted on
header 68 4 0|its log, 0 bytes at
header 68 4 0x80000|its log, 524288 bytes
header 68 4 0xfff00000|its log, 4293918720 bytes
header 72 8 0|its log, 1048576 bytes at 0
header 72 8 0x110000|its log
header 72 8 0xfffffffffff00000|its log
regions 0 4 0|both of its region tables
regions 8 4 2048|both of its region tables
regions 8 4 -1|both of its region tables
regions 8 4 0|has no block table, or no metadata
regions 8 4 1|has no block table, or no metadata
regions 8 4 3|a region of 0 bytes at 0
region 0 0 16 hex:000102030405060708090a0b0c0d0e0f|needs a region .* 03020100-0504-0706-0809-0a0b0c0d0e0f
region 1 0 16 hex:6677c22d23f600429d64115e9bfd4a08|has the same region twice
region 0 16 8 0|a region of 1048576 bytes at 0
region 0 16 8 0x180000|a region of 1048576 bytes at 1572864
region 0 16 8 0x100000|log, block table and metadata overlap
region 0 16 8 0x200000|log, block table and metadata overlap
region 0 16 8 0xfffffffffff00000|a region of
region 0 24 4 0|a region of 0 bytes
region 0 24 4 0xfff00000|a region of
region 1 24 4 65536|a region of 65536 bytes
bytes 0x200000 1 0|its metadata is damaged
bytes 0x20000a 2 2048|its metadata is damaged
bytes 0x20000a 2 4|its metadata lacks an item
item 0 0 16 hex:000102030405060708090a0b0c0d0e0f|needs an item .* 03020100-0504
item 0 16 4 0|an item of its metadata, 8 bytes at 0
item 0 16 4 -1|an item of its metadata
item 0 20 4 -1|an item of its metadata
item 0 20 4 4|an item .* too short
item 1 0 16 hex:3767a1ca36fa434db3b633f0aa44e76b|an item .* there twice
value block 0|blocks of 0 bytes
value block 0x80000|blocks of 524288 bytes
value block 0x300000|blocks of 3145728 bytes
value block 0x20000000|blocks of 536870912 bytes
value sector 0|sectors of 0 bytes
value sector 1024|sectors of 1024 bytes
value sector -1|sectors of 4294967295 bytes
value size 0|a disk of 0 bytes
value size 511|a disk of 511 bytes
value size 0x400000000200|a disk of 70368744178176
value size -1|a disk of 18446744073709551615
value size 0x400000000000|its block table has 131072 entries
value flags 2|does not say where its parent is
EOR
	for n in 0 7 65536 1048575 1048576 2097152 3145728 4194303; do
		cp good a
		truncate -s $n a
		refuses 'a: ' "$IMAGE_CHECK" vhdx:a
	done
}

# One of two is enough, of headers and of region tables.
halves() {
	local what
	good 9M -c 1M
	for what in header1 header2 regions1 regions2; do
		cp good a
		cp start model
		edit a spoil $what
		writes a model seed=9 ops=20
	done
	cp good a
	edit a spoil header1
	edit a spoil header2
	refuses 'both of its headers' "$IMAGE_CHECK" vhdx:a
	cp good a
	edit a spoil regions1
	edit a spoil regions2
	refuses 'both of its region tables' "$IMAGE_CHECK" vhdx:a
}

entries() {
	local bat
	good 9M -c 1M
	bat=$(python3 "$here/edit.py" good show bat)
	while read -r value what; do
		cp good a
		edit a entry 0 "$value"
		"$IMAGE_CHECK" vhdx:a >out.txt 2>&1
		grep -q "$what" out.txt && ! grep -qx 'corruptions: 0' out.txt ||
			fail "entry $value: $(cat out.txt)"
	done <<-EOR
	4 state 4
	5 state 5
	7 state 7
	6 lies on a table
	$((bat + 6)) lies on a table
	0x7ffffffffff00006 does not lie in the file
	$((0x500000 + 6)) lies on another one
	EOR
	cp good a
	edit a entry 0 0x7ffffffffff00006
	refuses 'it can be opened read-only' "$IMAGE_RANDOM" vhdx:a model
}

# A log that is left: replayed in memory only, then in the file.
replays() {
	local bat sum
	good 9M -c 1M
	bat=$(python3 "$here/edit.py" good show bat)
	for torn in 0 1 none; do
		cp good a
		# a table of zeroes stands for what a batch has not brought to its place
		cp good b
		edit b bytes $bat 8 0
		cp b a
		dd if=good of=page bs=4096 skip=$((bat / 4096)) count=1 status=none
		edit a bytes $bat 8 0
		dd if=page of=a bs=4096 seek=$((bat / 4096)) count=1 conv=notrunc status=none
		if [ $torn = none ]; then
			edit a log $bat=same
		else
			edit a log torn=$torn $bat=same
		fi
		edit a bytes $bat 8 0
		sum=$(sha256sum <a)
		if [ $torn = none ]; then
			must "$TAP_IMG" compare vhdx:a aio:start
			must "$TAP_IMG" info vhdx:a
			grep -qx 'dirty: yes' out.txt || fail "not dirty: $(cat out.txt)"
		elif "$TAP_IMG" compare vhdx:a aio:start >out.txt 2>&1; then
			fail "a torn entry was replayed"
		fi
		same_file a "$sum"
		if [ $torn = none ]; then
			cp start model
			writes a model seed=11 ops=10
			must "$TAP_IMG" compare vhdx:a aio:model
		fi
	done
	# zeroes, and what must not be changed by a log
	cp good a
	edit a log $bat=zero
	truncate -s 9M zeroes
	must "$TAP_IMG" compare vhdx:a aio:zeroes
	for place in 0 65536 131072 0x100000 4097 0x7ffffffff000; do
		cp good a
		edit a log $place=1
		refuses 'a: its log changes .*, which cannot be' "$IMAGE_CHECK" vhdx:a
	done
	cp good a
	edit a log cut $bat=same
	refuses 'it has been cut off' "$IMAGE_CHECK" vhdx:a
	cp good a
	edit a log 0x500000=1
	refuses 'its log changes data: open it for writing once' "$IMAGE_CHECK" vhdx:a
}

# What QEMU leaves when it is killed we replay, and it what we leave: bitmaps of ours
# mean nothing to it, so there is no parent.
killed() {
	local spec=vhdx:a sum
	need qemu-img
	must "$QCOW_CREATE" -q -f vhdx -c 1M 9M a
	"$TAPDISK" --disk $spec --nbd unix:sock >tapdisk.log 2>&1 &
	pid=$!
	cleanup() { kill -9 $pid 2>/dev/null; }
	for n in $(seq 1000); do
		grep -q 'listening on' tapdisk.log && break
		sleep 0.1
	done
	truncate -s 9M model
	for n in 0 3 5; do
		must qemu-io -f raw -c "write -P 7 ${n}M 300k" -c flush nbd:unix:sock
		must qemu-io -f raw -c "write -P 7 ${n}M 300k" model
	done
	kill -9 $pid
	wait $pid 2>/dev/null
	cp a theirs
	sum=$(sha256sum <a)
	refuses 'open it for writing once' "$IMAGE_CHECK" vhdx:a
	same_file a "$sum"
	# somebody who knows nothing of survivor memory: all was flushed
	must qemu-img check -q -r all -f vhdx theirs
	all_agree theirs model
	sound theirs
	# and we, who do
	writes a model seed=5 ops=50
	all_agree a model
}

parents() {
	good 9M -c 1M
	mkdir -p sub
	must "$QCOW_CREATE" -q -f vhdx -b vhdx 0 sub/child good
	must "$TAP_IMG" compare vhdx:sub/child aio:start
	mkdir other
	cp -r sub good other
	mv good gone
	(cd other && must "$TAP_IMG" compare vhdx:sub/child aio:../start) # relative first
	refuses 'its parent: .*good' "$IMAGE_CHECK" vhdx:other/../sub/child
	mv gone good
	writes good model seed=3 ops=5
	refuses 'is not as it was when the image was made over it' "$IMAGE_CHECK" vhdx:sub/child
	must "$QCOW_CREATE" -q -f vhdx -b vhdx 0 again good
	must "$TAP_IMG" check vhdx:again # opened read-only: the parent stays as it is
	must "$TAP_IMG" compare vhdx:again aio:model
	must qemu-img create -q -f qcow2 q 1M
	refuses 'a VHDX lies over a vhdx or a raw image' "$QCOW_CREATE" -q -f vhdx -b qcow2 0 c q
	refuses 'backing-format= is given' "$IMAGE_CHECK" vhdx:good,backing-format=raw
}

# Bitmaps that an image lacks are made when it is opened for writing.
bitmaps() {
	local sum
	head -c 9M /dev/urandom >raw
	must "$QCOW_CREATE" -q -f vhdx -c 1M 0 a raw
	edit a entry 4096 0
	truncate -s -1M a
	sum=$(sha256sum <a)
	must "$TAP_IMG" compare vhdx:a aio:raw
	same_file a "$sum"
	cp raw model
	writes a model seed=4 ops=50
	# bits of a block that is not there mean nothing
	must "$QCOW_CREATE" -q -f vhdx -c 1M 0 b raw
	edit b bytes $((0xb00000)) 64 hex:"$(printf 'ff%.0s' {1..64})"
	must "$TAP_IMG" compare vhdx:b aio:raw
	cp raw model
	writes b model seed=4 ops=50
}

"$1"
