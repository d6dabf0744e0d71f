#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# img.sh CASE: what tap-img's single commands promise.
. "$(dirname "$0")/lib.sh"
need qemu-img python3

formats-are-named() {
	content raw
	must "$img" convert -f raw -O qcow raw a
	refuses 'a: no format is named; it looks like qcow: say -f qcow, or qcow:a' \
		"$img" check a
	refuses 'raw: no format is named, and it looks like none' "$img" map raw
	refuses 'none: no format is named: say -O FORMAT, or FORMAT:none' \
		"$img" convert qcow:a none
	refuses 'no driver is called "nonsense"' "$img" check -f nonsense a
	refuses 'no driver is called "nonsense"' "$img" check nonsense:a
	refuses 'raw: no qcow2 image' "$img" info -f qcow2 raw
	refuses 'a: .*\(it looks like qcow\)' "$img" info -f qcow2 a
	refuses 'qcow:a: has its format already: leave -f out, or say ./qcow:a' \
		"$img" info -f qcow qcow:a
	refuses 'raw:new: has its format already: leave -O' "$img" convert -f raw -O raw raw raw:new
	must "$img" create -f raw ./raw:new 1M
	must "$img" info -f raw raw:new
	refuses '\(beside its format a name is a path; with options, say qcow:a,x=y\)' \
		"$img" info -f qcow a,x=y
	refuses 'gone: No such file' "$img" info -f raw gone
	refuses 'gone: no format is named' "$img" info gone
	refuses 'no command frob' "$img" frob
	refuses 'unknown option --frob' "$img" info --frob a
	cp a 'odd,name\x'
	must "$img" check -f qcow 'odd,name\x'
	must "$img" check 'qcow:odd\,name\\x'
	refuses 'unknown option "frob"' "$img" info qcow:a,frob=1
}

create() {
	must "$img" create -f qcow2 a 1G
	must "$img" create qcow2:b,cluster_size=4K 64M
	must qemu-img info -f qcow2 --output=json b
	is 'd["virtual-size"], d["cluster-size"]' '(67108864, 4096)'
	must "$img" create -f qcow2 -o size=2M,cluster_size=512 c
	must qemu-img check -q c
	must "$img" create -f raw r 3M
	[ "$(stat -c '%s %b' r)" = "3145728 0" ] || fail "raw: $(stat -c '%s %b' r)"
	must "$img" create -f raw -o preallocation=falloc r2 3M
	[ "$(stat -c %b r2)" -ge 6144 ] || fail "falloc takes $(stat -c %b r2) blocks"
	refuses 'preallocation=some' "$img" create -f raw -o preallocation=some r3 3M
	refuses 'a: is there already' "$img" create -f qcow2 a 1M
	must "$img" create --force -f qcow2 a 2M
	must "$img" create -f qcow2 -b a -F qcow2 over
	must qemu-img info --backing-chain --output=json over
	is 'len(d), d[0]["virtual-size"], d[0]["backing-filename-format"]' "(2, 2097152, 'qcow2')"
	must "$img" create -f qcow2 -b qcow2:over -o backing_fmt=qcow2 top 5M
	must qemu-img check -q top
	refuses 'no format is named; it looks like qcow2: say -F' "$img" create -f qcow2 -b a x
	refuses 'gone: No such file' "$img" create -f qcow2 -b gone -F raw x
	refuses 'no size is given' "$img" create -f raw x
	refuses 'which image' "$img" create -f raw
	must "$img" create -f qcow2 -o help
	grep -q '^  extended_l2 ' out.txt || fail "no help: $(cat out.txt)"
	refuses 'ram.*cannot be made' "$img" create -f ram -o help
	refuses 'abc: no size' "$img" create -f raw x abc
	refuses 'multiple of 512' "$img" create -f raw x 1000
	refuses 'no.dir/x: No such file' "$img" create -f raw no.dir/x 1M
	refuses 'is no file' "$img" create --force -f raw . 1M
	refuses 'unknown option "frob"' "$img" create -f raw -o frob=1 x 1M
	refuses 'raw image has no backing' "$img" create -f raw -b a -F qcow2 x
	refuses 'cannot be made' "$img" create -f ram x 1M
	[ ! -e x ] || fail "x was made"
	no-parts
	ends 1 "$img" create -f raw
}

# An overlay that is made before what it lies over.
create-over-what-is-not-there() {
	content raw
	refuses 'no size is given' "$img" create -u -f qcow2 -b base -F raw a
	must "$img" create -u -f qcow2 -b base -F raw a 12M
	must "$img" create -u -f qcow2 -o backing_file=base,backing_fmt=raw b 12M
	refuses 'base: No such file' "$img" create -u -f vmdk -b base -F vmdk c 12M
	[ -e c ] && fail "c was made"
	cp raw base
	truncate -s 12M raw
	equal qcow2 a raw
	equal qcow2 b raw
	no-parts
}

# What only qemu-img has is refused with a word about it, and nothing is done.
options-of-others-are-refused-by-name() {
	content raw
	while read -r pattern command; do
		refuses "$pattern" "$img" $command
	done <<-'END'
		FORMAT:PATH info --image-opts driver=raw,file.filename=raw
		FORMAT:PATH convert -n --target-image-opts raw:raw x
		key-file= convert --object secret,id=s,file=raw raw:raw raw:x
		only.info map -U raw:raw
		only.info convert --force-share raw:raw raw:x
		bitmap.--merge convert --bitmaps raw:raw raw:x
		ionice convert -r 10M raw:raw raw:x
		create.-b convert -B raw raw:raw raw:x
		snapshot=NAME measure -O raw -l one raw:raw
		amend.is.not.there amend -f qcow2 raw
		bitmap.is.not.there bitmap --add raw one
		adapter_type.is.not.there create -f vmdk -o adapter_type=buslogic x 1M
		the.size.is.always create -f vhd -o force_size=on x 1M
		subformat=fixed create -f vdi -o static=on x 1M
		chattr create -f raw -o nocow=on x 1M
		key-file=PATH create -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s x 1M
	END
	must "$img" create -f vhdx -o block_size=2M,log_size=2M y 8M
	must "$img" info --json -f vhdx y
	is 'd["format-specific"]["block-size"], d["format-specific"]["log-size"]' \
		"('2097152', '2097152')"
	ends 2 "$img" compare -U raw:raw raw:raw
	refuses 'unknown option -U' "$img" create -f raw -Uq x 1M
	[ -e x ] && fail "x was made"
	:
}

info-of-an-image-in-use() {
	must "$img" create -f qcow2 a 8G
	"$img" bench -q -w -c 10000000 -S 1M -f qcow2 a &
	pid=$!
	cleanup() { kill -9 $pid 2>/dev/null; }
	for i in {1..1000}; do # it has the lock, and memory
		[ "$(ls memory)" ] && break
		sleep 0.02
	done
	ends 1 "$img" info -f qcow2 a
	grep -q 'in use by another process' err.txt || fail "$(cat err.txt)"
	"$img" info --json -U a >out.txt 2>&1
	code=$?
	kill -9 $pid
	wait $pid 2>/dev/null
	[ $code = 0 ] || fail "info -U: $(cat out.txt)"
	is 'd["format"], d["virtual-size"]' "('qcow2', 8589934592)"
	# killed: what it has left is not asked for, and stays
	must "$img" info -U -f qcow2 a
	must "$img" check -r all -f qcow2 a
}

info() {
	must "$img" create -f qcow2 base 8M
	must "$img" create -f qcow2 -b base -F qcow2 a
	must "$img" info --json a
	is 'd["format"], d["guessed"], d["virtual-size"]' "('qcow2', True, 8388608)"
	is 'd["backing-filename-format"]' qcow2
	must "$img" info --json -f qcow2 a
	is 'd["guessed"]' False
	must "$img" info --backing-chain --output json a
	is 'len(d), d[1]["filename"]' "(2, '$work/base')"
	must "$img" info a
	grep -q '^file format: qcow2 (it looks like it)' out.txt || fail "$(cat out.txt)"
	# told also if what it lies over is not there
	for format in qcow2 vmdk vhd vhdx; do
		must "$img" create --force -f $format base 8M
		must "$img" create -f $format -b base -F $format over
		mv base hidden
		ends 0 "$img" info --json -f $format over
		grep -q 'base' err.txt || fail "$format: not told: $(cat err.txt)"
		is 'd["format-specific"]["backing-file"].endswith("base"), d["virtual-size"]' \
			'(True, 8388608)'
		is 'd["backing-filename"] == d["format-specific"]["backing-file"]' True
		ends 1 "$img" info --backing-chain -f $format over
		mv hidden base
		must "$img" info -f $format over
		rm over
	done
	must "$img" create --force -f qcow2 base 8M
	refuses 'json or human' "$img" info --output frob a
	cp a b
	must "$img" info b
	cmp a b || fail "info changed the file"
}

check() {
	content raw
	must "$img" convert raw:raw qcow2:a,cluster_size=4K
	ends 0 "$img" check -f qcow2 a
	ends 63 "$img" check -f raw raw
	grep -q 'raw: raw has nothing that could be checked' err.txt || fail "$(cat err.txt)"
	must "$img" convert raw:raw qcow:q
	ends 0 "$img" check -r leaks -f qcow q
	ends 1 "$img" check -r some -f qcow q
	ends 1 "$img" check -f qcow raw
	ends 1 "$img" check -f qcow gone
	# an entry of qcow's first L2 table that points into the header
	python3 - q <<-'END'
		import struct, sys
		f = open(sys.argv[1], "r+b")
		l1 = struct.unpack(">Q", f.read(48)[40:48])[0]
		f.seek(l1)
		f.seek(struct.unpack(">Q", f.read(8))[0])
		f.write(struct.pack(">Q", 4096))
	END
	ends 2 "$img" check --json -f qcow q
	is 'd["corruptions"] > 0' True
	ends 63 "$img" check -r all -f qcow q
	grep -q 'qcow repairs no errors' err.txt || fail "$(cat err.txt)"
	# a cluster of qcow2 whose refcount says 1, and nobody has it
	python3 - a <<-'END'
		import struct, sys
		f = open(sys.argv[1], "r+b")
		table = struct.unpack(">Q", f.read(56)[48:56])[0]
		f.seek(table)
		block = struct.unpack(">Q", f.read(8))[0]
		f.seek(block)
		counts = f.read(4096)
		free = next(i for i in range(2048) if counts[2 * i:2 * i + 2] == b"\0\0")
		f.truncate(max(f.seek(0, 2), (free + 1) * 4096))
		f.seek(block + 2 * free)
		f.write(b"\0\1")
	END
	ends 3 "$img" check --json -f qcow2 a
	is 'd["leaks"], d["corruptions"]' '(1, 0)'
	ends 0 "$img" check --json -r leaks -f qcow2 a
	is 'd["leaks"], d["leaks-fixed"]' '(0, 1)'
	ends 0 "$img" check -f qcow2 a
	must qemu-img check -q a
	equal qcow2 a raw
	# refcounts that are too high, of clusters whose entries say that they are their own
	python3 - a <<-'END'
		import struct, sys
		f = open(sys.argv[1], "r+b")
		f.seek(48)
		f.seek(struct.unpack(">Q", f.read(8))[0])
		block = struct.unpack(">Q", f.read(8))[0]
		f.seek(block + 2 * 20)
		f.write(b"\0\5" * 10)
	END
	ends 2 "$img" check -f qcow2 a
	ends 0 "$img" check --json -r all -f qcow2 a
	is 'd["corruptions"], d["leaks"], d["corruptions-fixed"] > 0' '(0, 0, True)'
	ends 0 "$img" check -f qcow2 a
	must qemu-img check -q a
	# marked corrupt: nobody writes it until it has been repaired
	python3 -c 'f = open("a", "r+b"); f.seek(79); f.write(bytes([2]))'
	refuses 'a: is marked corrupt' "$img" resize -f qcow2 a +1M
	ends 1 "$img" check -r leaks -f qcow2 gone
	ends 0 "$img" check -r all -f qcow2 a
	must "$img" resize -f qcow2 a +1M
	must qemu-img check -q a
}

# Tables that a killed process has left in survivor memory: the command that repairs takes
# them, whatever else the format repairs.
check-takes-what-a-killed-process-left() {
	local left pid i
	for format in qcow qcow2 vmdk vhd vhdx vdi; do
		left=
		for i in {1..50}; do
			must "$img" create -q --force -f $format a 2G
			"$img" bench -q -w -c 1000000 -S 1M -f $format a &
			pid=$!
			sleep "$(printf '%d.%02d' $((i / 25)) $((i % 25 * 4)))"
			kill -9 $pid
			wait $pid 2>/dev/null
			"$img" info -f $format a >out.txt 2>&1 && continue
			grep -q 'open it for writing once' out.txt || fail "$format: $(cat out.txt)"
			left=yes
			break
		done
		[ $left ] || fail "$format: nothing was ever left"
		ends 1 "$img" check -f $format a
		# the room of what was not written yet is nobody's in qcow, which repairs nothing
		"$img" check -r all -f $format a >out.txt 2>&1
		code=$?
		[ $code = 0 ] || { [ $code = 63 ] && grep -q '^[0-9]* leaked' out.txt; } ||
			fail "$format: $code: $(cat out.txt)"
		must "$img" info -f $format a
		"$img" check -f $format a >out.txt 2>&1
		[ $? = $((code ? 3 : 0)) ] || fail "$format: $(cat out.txt)"
	done
}

map-as-qemu-img-has-it() {
	content raw
	must qemu-img convert -f raw -O qcow2 -o cluster_size=4K raw base
	must qemu-img create -q -f qcow2 -b "$PWD/base" -F qcow2 -o cluster_size=64K a 12M
	must qemu-io -f qcow2 -c 'write -P 5 1M 256k' -c 'write -z 2M 256k' -c 'write 11M 64k' a
	must "$img" map --json -f qcow2 a
	mv out.txt ours
	must qemu-img map --output=json -f qcow2 a
	python3 - ours out.txt <<-'END' || fail "they differ"
		import json, sys
		def ranges(name):
		    out = []
		    for e in json.load(open(name)):
		        # of zeroes it does not matter who says so, and where they are
		        what = "zero" if e["zero"] else (e["data"], e["depth"], e["offset"] - e["start"])
		        if out and out[-1][2] == what:
		            out[-1][1] += e["length"]
		        else:
		            out.append([e["start"], e["length"], what])
		    return out
		a, b = ranges(sys.argv[1]), ranges(sys.argv[2])
		if a != b or len(a) < 5:
		    sys.exit(f"ours {a}\ntheirs {b}")
	END
	must "$img" map -f qcow2 a
	grep -Eq "^0x0 +0x100000 +0x[0-9a-f]+ +1 +$PWD/base" out.txt || fail "$(cat out.txt)"
	must "$img" map --json -s 1M -l 64K -f qcow2 a
	is 'len(d), d[0]["start"], d[0]["length"]' '(1, 1048576, 65536)'
	# it is there, in every format, and of several files in the right one
	while read -r format more; do
		must "$img" convert --force -O "$format" ${more:+-o "$more"} raw:raw x
		must "$img" map --json -f "$format" x
		is 'all(open(e["filename"], "rb").seek(e["offset"]) == e["offset"] and
			(f := open(e["filename"], "rb"), r := open("raw", "rb"),
			 f.seek(e["offset"]), r.seek(e["start"]),
			 f.read(e["length"]) == r.read(e["length"]))[-1]
			for e in d if e["data"]), any(e["data"] for e in d)' '(True, True)'
	done <<-END
		raw
		qcow
		qcow2
		vmdk
		vmdk subformat=twoGbMaxExtentFlat
		vhd
		vhd subformat=fixed
		vdi
	END
	must "$img" convert -c --force -O qcow2 raw:raw x
	must "$img" map --json -f qcow2 x
	is 'all("offset" not in e for e in d if e["start"] == 2 << 20)' True
	refuses 'no sector' "$img" map -s 100 -f qcow2 a
	refuses 'no sector' "$img" map -s 1T -f qcow2 a
}

measure-as-qemu-img-does() {
	content raw
	truncate -s 3G raw
	for cluster in 4K 64K 2M; do
		must qemu-img measure --output=json -f raw -O qcow2 -o cluster_size=$cluster raw
		theirs=$(json 'd["fully-allocated"], d["required"]')
		must "$img" measure --json -f raw -O qcow2 -o cluster_size=$cluster raw
		is 'd["fully-allocated"], d["required"]' "$theirs"
	done
	must "$img" measure --json -O raw --size 1G
	is 'd["required"]' 1073741824
	# it is enough
	truncate -s 30M raw
	for format in qcow qcow2; do
		must "$img" measure --json -f raw -O $format -o cluster_size=512 raw
		most=$(json 'd["required"]')
		must "$img" convert --force -f raw -O $format -o cluster_size=512 raw q
		[ "$(stat -c %s q)" -le "$most" ] || fail "$format: $(stat -c %s q), told $most"
	done
	for format in vhd vhdx vdi vmdk; do
		must "$img" measure --json -f raw -O $format raw
		most=$(json 'd["required"]')
		must "$img" convert --force -f raw -O $format raw q
		[ "$(stat -c %s q)" -le "$most" ] || fail "$format: $(stat -c %s q), told $most"
	done
	for kind in monolithicFlat twoGbMaxExtentSparse twoGbMaxExtentFlat streamOptimized; do
		must "$img" measure --json -f raw -O vmdk -o subformat=$kind raw
		most=$(json 'd["required"]')
		mkdir $kind
		must "$img" convert -f raw -O vmdk -o subformat=$kind raw $kind/image
		sum=$(cat $kind/* | wc -c)
		[ "$sum" -le "$most" ] || fail "$kind: $sum, told $most"
	done
	must "$img" measure --json -O qcow --size 512
	is 'd["fully-allocated"] < 1 << 15' True
	refuses 'give an image, or --size' "$img" measure -O raw
	refuses 'which format' "$img" measure --size 1G
	refuses 'cannot be' "$img" measure -O ram --size 1G
}

compare() {
	content a
	cp a b
	ends 0 "$img" compare -f raw a raw:b
	ends 0 "$img" compare raw:a raw:b
	grep -q 'Images are identical' out.txt || fail "$(cat out.txt)"
	printf x | command dd of=b bs=1 seek=3145729 conv=notrunc status=none
	ends 1 "$img" compare --json raw:a raw:b
	is 'd["identical"], d["first-difference"]' '(False, 3145729)'
	printf x | command dd of=b bs=1 seek=5000000 conv=notrunc status=none
	ends 1 "$img" compare -f raw a b
	grep -q 'differs at offset 3145729' out.txt || fail "$(cat out.txt)"
	cp a b
	truncate -s 90M b
	ends 0 "$img" compare raw:a raw:b
	grep -q 'different sizes' out.txt || fail "$(cat out.txt)"
	ends 1 "$img" compare -s raw:a raw:b
	ends 1 "$img" compare -q -s raw:b raw:a
	[ -s out.txt ] && fail "-q says $(cat out.txt)"
	printf x | command dd of=b bs=1 seek=80M conv=notrunc status=none
	ends 1 "$img" compare raw:a raw:b
	ends 1 "$img" compare raw:b raw:a
	must "$img" convert raw:a qcow2:c
	ends 0 "$img" compare -f raw -F qcow2 a c
	ends 2 "$img" compare raw:a raw:gone
	ends 2 "$img" compare a b
	ends 2 "$img" compare raw:a
}

resize() {
	content r
	cp r model
	must "$img" resize -f raw r +1M
	truncate -s +1M model
	cmp r model || fail "raw grew wrong"
	refuses 'shrink' "$img" resize -f raw r 1M
	refuses 'shrink' "$img" resize -f raw r -1M
	must "$img" resize --shrink -f raw r -2M
	truncate -s -2M model
	cmp r model || fail "raw shrank wrong"
	refuses 'leads to no size' "$img" resize --shrink -f raw r -1G
	refuses 'multiple of 512' "$img" resize -f raw r +100
	must "$img" convert raw:r qcow2:a
	must "$img" resize -f qcow2 a 1G
	truncate -s 1G model
	equal qcow2 a model
	must qemu-img check -q a
	cp r model
	must "$img" resize --preallocation=falloc -f raw r +8M
	truncate -s +8M model
	cmp r model || fail "raw with space of its own grew wrong"
	[ $(($(stat -c %b r) * 512)) -ge $((8 << 20)) ] || fail "no space: $(stat -c %b r) blocks"
	must "$img" create -f qcow2 b 1M
	must "$img" resize --preallocation=full -f qcow2 b 9M
	must "$img" map --json -f qcow2 b
	is 'sum(e["length"] for e in d if e["data"])' $((8 << 20))
	must "$img" check -f qcow2 b
	refuses 'off, falloc or full' "$img" resize --preallocation=some -f qcow2 b 10M
	refuses 'does not become larger' "$img" resize --preallocation=full --shrink -f qcow2 b 1M
	refuses 'ram images keep the size' "$img" resize -f ram q 2M
	refuses 'gone' "$img" resize -f raw gone 2M
}

dd() {
	content raw
	must "$img" dd -f raw -O raw if=raw of=out bs=1M skip=2 count=3
	command dd if=raw of=want bs=1M skip=2 count=3 status=none
	cmp out want || fail "not the same part"
	must "$img" dd -f raw -O qcow2 if=raw of=q bs=64K skip=1
	command dd if=raw of=want bs=64K skip=1 status=none
	equal qcow2 q want
	refuses 'out: is there already' "$img" dd -f raw -O raw if=raw of=out
	refuses 'nothing is left' "$img" dd -f raw -O raw if=raw of=x bs=1M skip=10
	refuses 'nothing is left' "$img" dd -f raw -O raw if=raw of=x count=0
	refuses 'multiple of 512' "$img" dd -f raw -O raw if=raw of=x bs=1000
	refuses 'seek=1: can be' "$img" dd -f raw -O raw if=raw of=x seek=1
	refuses 'if= and of=' "$img" dd -f raw if=raw bs=1M
	no-parts
}

bench() {
	content raw
	cp raw kept
	must "$img" bench --json -c 500 -d 8 raw:raw
	is 'd["requests"], d["buffer-size"], d["seconds"] > 0' '(500, 4096, True)'
	must "$img" bench -c 500 -d 8 -R -s 64K raw:raw
	grep -q '^Run completed in .* requests/s' out.txt || fail "$(cat out.txt)"
	cmp raw kept || fail "reading wrote"
	must "$img" bench -q -w --pattern 7 -c 8 -d 3 -s 1M --flush-interval 2 raw:raw
	head -c 8M /dev/zero | tr '\0' '\7' >want
	cmp -n 8M raw want || fail "not written as told"
	refuses 'past the end' "$img" bench -o 1G raw:raw
	refuses 'goes with -w' "$img" bench --flush-interval 2 raw:raw
	refuses 'depth' "$img" bench -d 0 raw:raw
	refuses 'sectors' "$img" bench -s 100 raw:raw
}

json-everywhere() {
	content raw
	for command in "create -f qcow2 a 10M" "info a" "check -f qcow2 a" \
		"convert -n raw:raw qcow2:a" "map -f qcow2 a" "measure -O qcow2 -f raw raw" \
		"compare -f raw -F qcow2 raw a" "resize -f qcow2 a +1M" "snapshot -f qcow2 a" \
		"create -f qcow2 -b a -F qcow2 b" "commit -f qcow2 b" "rebase -f qcow2 -b a -F qcow2 b" \
		"dd -f raw -O raw if=raw of=x" "bench -c 10 raw:raw"; do
		must "$img" $command --json
		json 'type(d)' >/dev/null
	done
}

manual() { # the options of each command's --help are those of its part of the page
	for command in create info check convert map measure compare resize snapshot commit \
		rebase dd bench; do
		must "$img" $command --help
		grep -oE '^  (-., |    )--[a-z-]+' out.txt | grep -oE -- '--.*' |
			grep -vxE -- '--(json|output|plugins|help)' | sort -u >told
		sed -n "/^\.SS $command /,/^\.S[SH]/p" "$here/../../docs/man/tap-img.1" |
			sed 's/\\-/-/g' | grep -A1 '^\.TP' | grep -oE -- '--[a-z-]+' | sort -u >page
		cmp told page || fail "$command: $(diff told page)"
	done
	must "$img" --help
	must "$img" --version
}

"$1"
