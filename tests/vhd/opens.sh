#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# opens.sh CASE: what is opened, put in order or refused.
. "$(dirname "$0")/lib.sh"
need python3

headers() {
	local commands what
	good 9M
	while IFS='|' read -r commands what; do
		cp good a
		edit a $commands
		refuses "a: $what" "$IMAGE_CHECK" vhd:a
	done <<'EOR'
footer:0=00|no VHD image
footer:64=00000000|no VHD image
footer:60=00000000|a VHD of type 0
footer:60=00000005|a VHD of type 5
footer:60=ffffffff|a VHD of type
footer:12=00020000|VHD version 2
footer:84=01|belongs to a machine that is suspended
footer:48=0000000000000000|a disk of 0 bytes
footer:48=000001fe00000200|a disk of .*2040 GiB
footer:48=ffffffffffffffff|a disk of .*2040 GiB
footer:16=0000000000000000|its header, at 0
footer:16=0000000000000201|its header, at 513
footer:16=fffffffffffffe00|its header, at 18446744073709551104
footer:16=0000000000000400|its header, at 1024, is damaged
header:0=00|its header, at 512, is damaged
raw:548=00000000|its header, at 512, is damaged
header:24=00020000|a header of version 2
header:32=00000000|blocks of 0 bytes
header:32=00000100|blocks of 256 bytes
header:32=00300000|blocks of 3145728 bytes
header:32=10000000|blocks of 268435456 bytes
header:28=00000000|0 blocks of 2097152
header:28=00000004|4 blocks of 2097152
header:28=ffffffff|its block table, 4294967295 entries
header:16=0000000000000000|its block table
header:16=0000000000000200|its block table
header:16=0000000000000601|its block table
header:16=fffffffffffffe00|its block table
EOR
	for n in 0 1 511 1000 1535 1540; do
		cp good a
		truncate -s $n a
		refuses 'a: ' "$IMAGE_CHECK" vhd:a
	done
}

# The footer at the end is lost: its copy counts, and a writer puts it back.
footers() {
	good 9M
	cp good a
	truncate -s -512 a
	cp a before
	must "$IMAGE_CHECK" vhd:a
	grep -qx 'corruptions: 0' out.txt && grep -qx 'leaks: 1' out.txt || fail "$(cat out.txt)"
	cmp a before || fail "a reader has changed it"
	writes a model ops=50
	[ "$(peek a 0 512)" = "$(tail -c 512 a | od -An -tx1 | tr -d ' \n')" ] ||
		fail "the footers differ"
	cp good a
	cp start model
	edit a raw:0=00
	must "$IMAGE_CHECK" vhd:a
	writes a model ops=50
	[ "$(peek a 0 8)" = 636f6e6563746978 ] || fail "the copy was not written"
	# of 511 bytes, as in the first versions
	cp good a
	cp start model
	truncate -s -1 a
	writes a model ops=50
	[ $(($(stat -c %s a) % 512)) = 0 ] || fail "the footer is cut"
}

# What a killed writer has made room for is cut off, what is shown is not.
room() {
	good 9M
	cp good a
	edit a room:$((5 << 20))
	must "$IMAGE_CHECK" vhd:a
	grep -qx 'leaks: 2' out.txt || fail "$(cat out.txt)"
	writes a model ops=5
	[ "$(stat -c %s a)" = "$(stat -c %s good)" ] || fail "it is $(stat -c %s a) bytes"
}

# A guest writes what looks like a VHD to its fixed disk.
guests() {
	need qemu-img
	must qemu-img create -q -f vpc -o subformat=fixed,force_size=on a 9M
	good 9M
	dd if=good of=a conv=notrunc bs=1M count=1 status=none
	refuses 'a: is a fixed image by its end and a dynamic one by' "$IMAGE_CHECK" vhd:a
	must "$IMAGE_CHECK" vhd:a,subformat=fixed
	grep -qx 'subformat: fixed' out.txt || fail "$(cat out.txt)"
	must "$IMAGE_CHECK" vhd:a,kind=fixed # its other name
	must "$IMAGE_CHECK" vhd:good,subformat=dynamic
	refuses 'good: is not fixed, as' "$IMAGE_CHECK" vhd:good,subformat=fixed
	refuses 'neither fixed nor dynamic' "$IMAGE_CHECK" vhd:good,subformat=x
}

expect_size() { # OPTIONS BYTES: of an empty image a
	truncate -s $(($2 - 512)) sized
	timeout 300 "$IMAGE_RANDOM" "vhd:a$1" sized ops=0 >out.txt 2>&1 &&
		fail "a$1 has not $2 bytes"
	truncate -s "$2" sized
	timeout 300 "$IMAGE_RANDOM" "vhd:a$1" sized ops=0 >out.txt 2>&1 || fail "a$1: $(cat out.txt)"
	rm sized
}

# Who goes by the geometry, and who by the size
sizes() {
	local chs=$((301 * 4 * 17 * 512)) app
	for app in 76706320:$chs 71656d75:$chs 77696e20:10485760 71656d32:10485760 \
		64327620:10485760 74617000:10485760 76626f78:10485760; do
		must "$QCOW_CREATE" -q -F -f vhd 10M a
		edit a footer:28=${app%:*}
		expect_size "" "${app#*:}"
		expect_size ,size-from=chs $chs
		expect_size ,size-from=current 10485760
	done
	refuses 'size-from=x is neither' "$IMAGE_CHECK" vhd:a,size-from=x
	# all cylinders that there can be: the geometry says nothing. What lies over an
	# image takes its size.
	for size in 200 2040; do
		must "$QCOW_CREATE" -q -F -f vhd ${size}G a
		edit a footer:28=76706320
		must "$QCOW_CREATE" -q -F -b vhd -f vhd 0 b a
		[ $((0x$(peek b 48 8))) = $((size << 30)) ] || fail "$size GiB: $(peek b 48 8)"
	done
	refuses '2040 GiB' "$QCOW_CREATE" -q -F -f vhd 2041G a
}

# A batmap says which blocks are full: it is used, and stays true.
batmaps() {
	local sum=$((1536 + 512 + 24)) # where its checksum is
	rm -f good model
	must "$QCOW_CREATE" -q -f vhd 9M good
	edit good new-batmap:1
	truncate -s 9M model
	writes good model seed=7 ops=100
	cp model start
	cp good a
	edit a batmap:3
	sound a
	writes a model ops=400
	# more than is so: a reader is told, a writer empties it
	must "$QCOW_CREATE" -q -f vhd 9M b
	edit b new-batmap:1 batmap:2
	truncate -s 9M zero
	writes b zero ops=100
	[ "$(peek b $sum 4)" = ffffffff ] || fail "it still says so"
	cp good a
	edit a batmap:3 raw:$sum=00000000
	must "$IMAGE_CHECK" vhd:a
	grep -qx 'batmap: damaged' out.txt || fail "$(cat out.txt)"
	cp start model
	writes a model ops=10
	grep -qx 'batmap: yes' out.txt || fail "$(cat out.txt)"
	# over an image below a bit of it hides the bitmap: it must be so
	head -c 9M /dev/urandom >raw
	must "$QCOW_CREATE" -q -f vhd 0 c raw
	edit c new-batmap:1
	must "$IMAGE_CHECK" vhd:c
	grep -qx 'batmap: yes' out.txt || fail "$(cat out.txt)"
	cp raw model
	writes c model ops=20 max=4096
	edit c batmap:5
	"$IMAGE_CHECK" vhd:c >out.txt 2>&1
	[ $? = 3 ] && grep -q 'batmap says that it is full' out.txt || fail "$(cat out.txt)"
}

# The first tools of XenServer had bits the other way round.
old_bits() {
	good 9M
	cp good a
	edit a footer:32=00000001
	must "$IMAGE_CHECK" vhd:a
	writes a model ops=200
	head -c 9M /dev/urandom >raw
	must "$QCOW_CREATE" -q -f vhd 0 b raw
	edit b footer:32=00000001
	cp raw model
	writes b model ops=200
	edit b footer:32=00010001
	"$QCOW2RAW" -q got vhd:b 2>/dev/null && cmp -s got model &&
		fail "bits are not the other way round"
	:
}

parents() {
	mkdir dir dir/base
	must "$QCOW_CREATE" -q -f vhd 9M dir/base/alone
	must "$QCOW_CREATE" -q -f vhd 9M dir/base/one.vhd
	truncate -s 9M model
	writes dir/base/one.vhd model ops=200
	must "$QCOW_CREATE" -q -f vhd -b vhd 0 dir/two.vhd dir/base/one.vhd
	edit dir/two.vhd footer:0=63 # nothing: it is as it was
	cp dir/two.vhd two
	# relative ones go before absolute ones, of which the last part is used
	for way in '0=W2ru,.\base\one.vhd' '3=MacX,file://./base/one.vhd' '7=W2ru,base\one.vhd'; do
		cp two dir/two.vhd
		edit dir/two.vhd locator:0=W2ku,'C:\images\none.vhd' locator:1=W2ku, "locator:$way"
		must "$IMAGE_CHECK" vhd:dir/two.vhd
		grep -q 'base/one.vhd' out.txt || fail "$way: $(cat out.txt)"
		cp model got
		writes dir/two.vhd got ops=30
	done
	cp two dir/base/two.vhd
	edit dir/base/two.vhd locator:0=W2ku,'D:\images\one.vhd' locator:1=W2ku,
	must "$IMAGE_CHECK" vhd:dir/base/two.vhd
	edit dir/base/two.vhd locator:0=W2ku,
	must "$IMAGE_CHECK" vhd:dir/base/two.vhd # by the name in the header
	cp two dir/two.vhd
	edit dir/two.vhd locator:0=W2ru,gone.vhd locator:1=W2ku,
	edit dir/two.vhd header:64=0000
	refuses 'two.vhd: its parent: .*gone.vhd: No such file' "$IMAGE_CHECK" vhd:dir/two.vhd
	edit dir/two.vhd locator:0=W2ru,
	refuses 'two.vhd: does not say where its parent is' "$IMAGE_CHECK" vhd:dir/two.vhd
	# the same name, but another image
	cp two dir/two.vhd
	rm dir/base/one.vhd
	must "$QCOW_CREATE" -q -f vhd 9M dir/base/one.vhd
	refuses 'one.vhd is not the one it was made over' "$IMAGE_CHECK" vhd:dir/two.vhd
	rm dir/base/one.vhd
	refuses 'two.vhd: its parent: .*one.vhd: No such' "$IMAGE_CHECK" vhd:dir/two.vhd
	refuses 'backing-format= is given' "$IMAGE_CHECK" vhd:dir/base/alone,backing-format=raw
	cp dir/two.vhd self.vhd
	edit self.vhd locator:0=W2ru,self.vhd locator:1=W2ku,
	refuses 'self.vhd: its parent: .*(chain|lock|in use|comes back)' "$IMAGE_CHECK" vhd:self.vhd
}

# Blocks that share a place, or lie outside: told, and never written.
tables() {
	good 9M
	cp good a
	edit a bat:1=$(peek a 1536 4)
	"$IMAGE_CHECK" vhd:a >out.txt 2>&1
	[ $? = 3 ] && grep -q 'have the same place' out.txt || fail "$(cat out.txt)"
	cp good a
	edit a bat:1=00000003
	"$IMAGE_CHECK" vhd:a >out.txt 2>&1
	grep -q 'lies on a table' out.txt || fail "$(cat out.txt)"
	cp good a
	edit a bat:1=00ffffff
	"$IMAGE_CHECK" vhd:a >out.txt 2>&1
	grep -q 'does not lie in the file' out.txt || fail "$(cat out.txt)"
	timeout 300 "$IMAGE_RANDOM" vhd:a model ops=5 >out.txt 2>&1 && fail "it was written"
	grep -q 'a: its block 1, at .*, does not lie in' out.txt || fail "$(cat out.txt)"
}

# Whatever the tables hold: errors, but no harm
mutants() {
	local n
	good 9M -c 64K
	for n in $(seq 1 30); do
		cp good a
		edit a mutate:$n
		harmless a $n 100
	done
}

"$1"
