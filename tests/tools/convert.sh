#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# convert.sh CASE: what tap-img convert promises.
. "$(dirname "$0")/lib.sh"
need qemu-img python3

each-to-each() {
	content raw
	for from in raw qcow qcow2; do
		must qemu-img convert -f raw -O $from raw source || fail "qemu-img"
		cp source kept
		for to in raw qcow qcow2; do
			rm -f target
			must "$img" convert -f $from -O $to source target
			equal $to target raw
			# as small as it can be: 3 MiB of data, tables
			[ "$(stat -c %b target)" -lt 7000 ] ||
				fail "$from to $to takes $(stat -c %b target) blocks"
		done
		cmp source kept || fail "$from: the source was changed"
	done
	must "$img" create -f qcow2 -b raw -F raw over
	must "$img" convert -f qcow2 -O qcow2 over flat
	equal qcow2 flat raw
	must "$img" info --json flat
	is '"backing-filename" in d' False
	must "$img" convert -p -m 1 -t none -T directsync -f qcow2 -O raw flat one
	cmp one raw || fail "with one chunk at a time"
	refuses '^tap-img convert: -T: none, ' "$img" convert -T fast -f qcow2 -O raw flat two
	no-parts
}

onto-what-is-there() {
	content raw
	for format in raw qcow qcow2; do
		rm -f a
		must "$img" create -f $format a 20M
		must "$img" bench -q -w --pattern 9 -c 20 -s 1M -f $format a
		must "$img" convert -n -f raw -O $format raw a
		cp raw want
		truncate -s 20M want
		# past the source's end the target stays as it was
		python3 -c "
f = open('want', 'r+b'); f.seek($(stat -c %s raw)); f.write(b'\\x09' * (20 * 1048576 - $(stat -c %s raw)))"
		equal $format a want
	done
	must "$img" create -f raw b 8M
	refuses 'b: too small: it has 8388608 bytes' "$img" convert -n raw:raw raw:b
	refuses 'gone: No such file' "$img" convert -n raw:raw raw:gone
	refuses '-o says how' "$img" convert -n -o size=1M -O raw raw:raw b
	[ "$(stat -c %b b)" = 0 ] || fail "it was written"
}

zeroes() {
	truncate -s 64M raw
	written raw 3 2
	written raw 1000 1
	dd if=/dev/zero of=raw bs=1M seek=20 count=20 conv=notrunc status=none
	must "$img" convert raw:raw raw:a
	cmp raw a || fail "not the same"
	[ "$(stat -c %b a)" -le 64 ] || fail "zeroes take $(stat -c %b a) blocks"
	must "$img" convert -S 0 raw:raw raw:full
	cmp raw full || fail "not the same, -S 0"
	[ "$(stat -c %b full)" -ge 131072 ] || fail "-S 0 takes $(stat -c %b full) blocks only"
	# a hole of 8 KiB is none for -S 64K
	noise 64K >small
	dd if=/dev/zero of=small bs=4K seek=4 count=2 conv=notrunc status=none
	must "$img" convert -S 64K raw:small raw:b
	cmp small b || fail "not the same, -S 64K"
	[ "$(stat -c %b b)" -ge 128 ] || fail "-S 64K: $(stat -c %b b) blocks"
	must "$img" convert -S 512 raw:small raw:c
	cmp small c || fail "not the same, -S 512"
	[ "$(stat -c %b c)" -lt 128 ] || fail "-S 512: $(stat -c %b c) blocks"
	refuses 'multiple of 512' "$img" convert -S 100 raw:small raw:d
}

bad-input() {
	content raw
	echo precious >there
	refuses 'there: is there already \(--force' "$img" convert raw:raw raw:there
	[ "$(cat there)" = precious ] || fail "it was overwritten"
	must "$img" convert --force raw:raw raw:there
	cmp there raw || fail "not replaced"
	refuses 'raw: is what is read' "$img" convert --force raw:raw raw:raw
	refuses 'raw: is what is read' "$img" convert -n raw:raw raw:raw
	ln raw twin
	refuses 'twin: is what is read' "$img" convert --force raw:raw raw:twin
	ln -s raw link
	refuses 'link: is what is read' "$img" convert -n raw:raw raw:link
	must "$img" create -f qcow2 -b raw -F raw over
	refuses 'raw: is what is read' "$img" convert --force qcow2:over raw:raw
	refuses 'gone: No such file' "$img" convert raw:gone raw:x
	refuses 'raw: no qcow2 image' "$img" convert qcow2:raw raw:x
	refuses 'raw does not write compressed' "$img" convert -c raw:raw raw:x
	refuses 'parallel' "$img" convert -m 0 raw:raw raw:x
	refuses 'parallel' "$img" convert -m 999 raw:raw raw:x
	refuses 'lies over no other' "$img" convert -O qcow2 \
		-o backing_file=raw,backing_fmt=raw raw:raw x
	refuses 'no.dir/x: No such file' "$img" convert raw:raw raw:no.dir/x
	: >empty
	refuses 'empty: its size is 0' "$img" convert raw:empty raw:x
	ends 1 "$img" convert raw:raw
	[ ! -e x ] || fail "x was made"
	cmp raw twin || fail "the source was changed"
	no-parts
	need qemu-io
	must qemu-img create -q -f qcow2 used 1M
	held qcow2 used
	refuses 'used: in use' "$img" convert --force raw:raw qcow2:used
	refuses 'used: in use' "$img" convert qcow2:used raw:x
	let_go
}

full-disk() {
	[ "$(id -u)" = 0 ] || skip "not root: cannot mount a small file system"
	if [ -z "${IN_NAMESPACE:-}" ]; then
		need unshare
		unshare -m true 2>/dev/null || skip "no mount namespaces"
		IN_NAMESPACE=1 unshare -m "$0" full-disk
		exit
	fi
	mkdir small
	mount -t tmpfs -o size=6M none small || skip "cannot mount tmpfs"
	cleanup() { umount "$work/small"; }
	noise 20M >raw
	for format in raw qcow qcow2; do
		refuses 'small/a: .*No space left' "$img" convert raw:raw $format:small/a
		[ -z "$(ls -A small)" ] || fail "$format leaves $(ls -A small)"
	done
	refuses 'No space left' "$img" create -f raw -o preallocation=full small/a 20M
	[ -z "$(ls -A small)" ] || fail "create leaves $(ls -A small)"
}

big() { # a source that takes a while
	truncate -s 600M raw
	for i in 0 1 2; do
		noise 30M | dd of=raw bs=1M seek=$((i * 200)) conv=notrunc status=none
	done
}

# complete FORMAT IMAGE WHEN: a signal came when all was done, and the name given
complete() {
	"$img" compare -q raw:raw "$1:$2" || fail "$3: the name is taken by less than a whole image"
}

killed-leaves-nothing() {
	big
	cp raw kept
	echo old >there
	for try in 1 2 3 4 5 6; do
		format=$([ $((try % 2)) = 0 ] && echo qcow2 || echo raw)
		"$img" convert --force raw:raw "$format:there" &
		pid=$!
		sleep 0.0$((RANDOM % 10))
		kill -KILL $pid 2>/dev/null
		wait $pid 2>/dev/null
		code=$?
		[ $code = 137 ] || [ $code = 0 ] || fail "try $try: exit $code"
		[ "$(head -c 4 there)" = old ] || {
			complete "$format" there "try $try" # it was quicker
			echo old >there
		}
	done
	# the next run removes what those left, and nothing that somebody may be writing
	(exec sleep 1000) &
	pid=$!
	cp raw .there.$pid.part
	cp raw .there.999999999.part
	cp raw .other.999999999.part
	must "$img" convert --force raw:raw raw:there
	kill $pid
	wait $pid 2>/dev/null
	[ "$(echo .[to]*.part)" = ".other.999999999.part .there.$pid.part" ] ||
		fail "parts: $(echo .[to]*.part)"
	cmp raw kept || fail "the source was changed"
	must "$img" convert --force raw:raw raw:there
}

interrupted-leaves-nothing() {
	big
	for signal in INT TERM HUP; do
		(trap - INT; exec "$img" convert raw:raw qcow2:a) 2>err.txt &
		pid=$!
		for _ in $(seq 10000); do
			{ ls .a.*.part || ls a; } >/dev/null 2>&1 && break
			sleep 0.005
		done
		kill -$signal $pid 2>/dev/null
		wait $pid
		code=$?
		[ $code = 0 ] || [ $code -gt 128 ] || fail "SIG$signal: exit $code: $(cat err.txt)"
		no-parts
		[ ! -e a ] || { # it was quicker
			complete qcow2 a "SIG$signal"
			rm a
		}
	done
}

devices() {
	[ "$(id -u)" = 0 ] || skip "not root: no loop devices"
	need losetup
	content raw
	truncate -s 10M raw
	noise 10M >disk
	dev=$(losetup -f --show disk 2>/dev/null) || skip "no loop devices"
	cleanup() { losetup -d "$dev" 2>/dev/null; }
	must "$img" convert raw:raw qcow2:a
	refuses "$dev: is there already" "$img" convert -f qcow2 -O raw a "$dev"
	must "$img" convert --force -f qcow2 -O raw a "$dev"
	cmp "$dev" raw || fail "the device holds something else"
	noise 10M >disk
	must "$img" convert -n -f qcow2 -O raw a "$dev"
	cmp "$dev" raw || fail "the device holds something else, -n"
	must "$img" convert raw:"$dev" qcow2:b
	equal qcow2 b raw
	refuses 'is no file' "$img" create --force -f qcow2 "$dev" 1M
	refuses 'a device has the size' "$img" resize --shrink -f raw "$dev" 1M
	losetup -d "$dev"
	truncate -s 9M disk
	dev=$(losetup -f --show disk)
	refuses "$dev: too small" "$img" convert --force -f qcow2 -O raw a "$dev"
}

compressed() {
	content raw
	yes 'what compresses well' | head -c 6M >>raw
	truncate -s +3M raw
	for cluster in 4K 64K 1M; do
		rm -f plain packed
		must "$img" convert -f raw -O qcow2 -o cluster_size=$cluster raw plain
		must "$img" convert -c -f raw -O qcow2 -o cluster_size=$cluster raw packed
		equal qcow2 packed raw
		must qemu-img check -q packed
		ends 0 "$img" check --json -f qcow2 packed
		is 'd["compressed-clusters"] > 5' True
		[ $(($(stat -c %s packed) * 3)) -lt $(($(stat -c %s plain) * 2)) ] ||
			fail "$cluster: $(stat -c %s packed) of $(stat -c %s plain) bytes"
		must "$img" convert -f qcow2 -O raw --force packed back
		cmp raw back || fail "$cluster: reads otherwise"
	done
	refuses 'raw does not write compressed' "$img" convert -c raw:raw raw:x
}

fragments() { # data and holes of all sizes, at odd places
	python3 - <<-'END'
		import random
		random.seed(5)
		with open("raw", "wb") as f:
		    f.truncate(50 << 20)
		    at = 0
		    while at < 45 << 20:
		        n = 512 * random.choice((1, 7, 8, 9, 100, 129, 1000))
		        f.seek(at)
		        f.write(random.randbytes(n))
		        at += n + 512 * random.choice((1, 8, 33, 127, 128, 256, 5000))
	END
	for to in raw qcow2 qcow; do
		must "$img" convert raw:raw $to:target
		equal $to target raw
		must "$img" convert -S 512 -m 3 $to:target raw:back
		cmp raw back || fail "by $to and back"
		rm -f target back
	done
}

several-sources() {
	content a
	noise 1536 >b
	must "$img" create -q -f qcow2 -b "$PWD/a" -F raw over
	must qemu-io -f qcow2 -c 'write -P 3 1M 1M' over
	must "$img" convert qcow2:over raw:over.raw
	cat over.raw b a >want
	must "$img" convert --json -O qcow2 qcow2:over raw:b raw:a joined
	is 'd["virtual-size"]' "$(stat -c %s want)"
	equal qcow2 joined want
	must qemu-img convert -f raw -O raw a b theirs
	must "$img" convert --force -f raw -O raw a b ours
	cmp ours theirs || fail "not what qemu-img makes"
	must "$img" create -q -f vdi there 30M
	must "$img" convert -n raw:b raw:a vdi:there
	cat b a >want
	truncate -s 30M want
	must "$img" compare -q vdi:there raw:want
	refuses 'b: what is to be compressed ends with a whole cluster' \
		"$img" convert -c raw:b raw:a qcow2:new
	head -c 128K a >whole
	must "$img" convert -c raw:whole raw:b qcow2:new
	cat whole b >want
	equal qcow2 new want
	refuses 'b: is what is read' "$img" convert --force raw:a raw:b raw:b
	refuses 'too small' "$img" convert -n raw:a raw:a raw:b
	no-parts
}

# A source of which a cluster cannot be read: its entry points past the file.
salvage() {
	content raw
	must "$img" convert -f raw -O qcow2 -o cluster_size=4K raw a
	python3 - a <<-'END'
		import struct, sys
		f = open(sys.argv[1], "r+b")
		f.seek(40)
		f.seek(struct.unpack(">Q", f.read(8))[0])
		l2 = struct.unpack(">Q", f.read(8))[0] & (1 << 56) - 512
		f.seek(l2 + 8 * 5)
		f.write(struct.pack(">Q", 1 << 63 | 1 << 40))
	END
	ends 1 "$img" convert -f qcow2 -O raw a out
	grep -q 'a: read near offset' err.txt || fail "$(cat err.txt)"
	[ -e out ] && fail "out was made"
	"$img" convert --json --salvage -f qcow2 -O raw a out >out.txt 2>err.txt || fail "$(cat err.txt)"
	is 'd["data-lost"]' 4096
	grep -q 'a: 4096 bytes could not be read, and are zeroes in out' err.txt || fail "$(cat err.txt)"
	command dd if=/dev/zero of=raw bs=4K seek=5 count=1 conv=notrunc status=none
	cmp raw out || fail "not the same"
	must "$img" convert --salvage -c -f qcow2 -O qcow2 a b
	must "$img" compare -f qcow2 -F raw b raw
	no-parts
}

of-a-snapshot() {
	content raw
	must "$img" convert -f raw -O qcow2 raw a
	must "$img" snapshot -f qcow2 -c 'one, or two' a
	must qemu-io -f qcow2 -c 'write -P 7 1M 1M' a
	must "$img" convert -f qcow2 -O raw -l 'snapshot.name=one, or two' a out
	cmp raw out || fail "the name tells another"
	must "$img" convert --force -O raw -l 1 qcow2:a out
	cmp raw out || fail "the id tells another"
	refuses "no snapshot 'three'" "$img" convert --force -O raw -l three qcow2:a out
	refuses 'unknown option "snapshot"' "$img" convert -O raw -l one raw:raw x
}

"$1"
