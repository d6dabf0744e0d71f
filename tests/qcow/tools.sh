#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# tools.sh CASE: what qcow-create, img2qcow and qcow2raw promise.
. "$(dirname "$0")/lib.sh"
need qemu-img

usage() { # COMMAND...: exit 2
	"$@" >out.txt 2>err.txt </dev/null
	[ $? = 2 ] || fail "$*: not a usage error"
	[ -s err.txt ] || fail "$*: says nothing"
}

size-of() {
	qemu-img info -f qcow --output=json "$1" | grep -o '"virtual-size": [0-9]*' |
		grep -o '[0-9]*$'
}

sizes() {
	while read -r arg bytes; do
		rm -f a.qcow
		must "$QCOW_CREATE" -q "$arg" a.qcow
		[ "$(size-of a.qcow)" = "$bytes" ] || fail "$arg gives $(size-of a.qcow)"
	done <<-END
		64 67108864
		64K 65536
		3M 3145728
		10G 10737418240
		2T 2199023255552
		20T 21990232555520
	END
	[ "$(stat -c %b a.qcow)" -lt 64 ] || fail "an empty image takes space"
	usage "$QCOW_CREATE" abc a2.qcow
	usage "$QCOW_CREATE" -- -5 a2.qcow
	usage "$QCOW_CREATE" 0 a2.qcow
	usage "$QCOW_CREATE" 5
	usage "$QCOW_CREATE" 5 a b c
	usage "$QCOW_CREATE" --no-such-option 5 a
	refuses 'a.qcow: is there already' "$QCOW_CREATE" 5 a.qcow
	refuses 'nothing' "$QCOW_CREATE" -f nothing 5 b
	must "$QCOW_CREATE" -qF 5 a.qcow
	must "$QCOW_CREATE" -q -f qcow 5 b.qcow
	refuses 'c.qcow: .*too large' "$QCOW_CREATE" 4000000T c.qcow
	ls -A | grep -q part && fail "left a part"
	for tool in "$QCOW_CREATE" "$IMG2QCOW" "$QCOW2RAW"; do
		must "$tool" --help
		grep -q '^Usage: ' out.txt || fail "no help"
		must "$tool" -h
		must "$tool" --version
	done
}

overlay-takes-the-size-of-its-backing-file() {
	head -c 5M /dev/urandom >base
	must "$QCOW_CREATE" 100 a.qcow base
	[ "$(size-of a.qcow)" = 5242880 ] || fail "size $(size-of a.qcow)"
	must "$QCOW_CREATE" -q 0 folder,with\\odd.qcow base
	must "$QCOW_CREATE" -q 0 over.qcow a.qcow
	grep -q 'a.qcow: taken as raw, .* it looks like qcow$' out.txt || fail "no warning"
	same folder,with\\odd.qcow base
	refuses 'cannot be reserved' "$QCOW_CREATE" -r 0 b.qcow base
	refuses 'b.qcow: a disk of .* over one of' "$TAP_IMG" create -f qcow -b base -F raw b.qcow 50M
	[ ! -e b.qcow ] || fail "it was made all the same"
}

# Gaps between tables and clusters are no place for a cluster.
gaps-are-no-leaks() {
	content
	local cluster
	for cluster in 512 4K 64K; do
		must "$TAP_IMG" create -q -f qcow --force -o cluster_size=$cluster a.qcow 9M
		must "$TAP_IMG" check -q -f qcow a.qcow
		must "$TAP_IMG" convert -q --force -f raw -O qcow -o cluster_size=$cluster raw a.qcow
		must "$TAP_IMG" check -q -f qcow a.qcow
	done
	truncate -s +192K a.qcow # three clusters, of which nobody knows
	"$TAP_IMG" check -q -f qcow a.qcow >out.txt 2>&1
	[ $? = 3 ] || fail "a lost cluster is no leak: $(cat out.txt)"
}

reserve-takes-all-space() {
	must "$QCOW_CREATE" -q -r 20 a.qcow
	[ "$(stat -c %b a.qcow)" -ge 40960 ] || fail "it has $(stat -c %b a.qcow) blocks"
	truncate -s 20M raw
	same a.qcow raw
	must "$IMAGE_CHECK" a.qcow
	grep -q 'allocated: 5120 of 5120' out.txt || fail "$(cat out.txt)"
	grep -q 'leaks: 0' out.txt || fail "$(cat out.txt)"
	size=$(stat -c %s a.qcow)
	timeout 300 "$IMAGE_RANDOM" qcow:a.qcow raw ops=500 >/dev/null || fail "writing"
	same a.qcow raw
	[ "$(stat -c %s a.qcow)" = "$size" ] || fail "it grew"
}

zero-blocks-stay-holes() {
	truncate -s 300M raw
	for at in 3 100 1000 70000; do
		head -c 8K /dev/urandom | dd of=raw bs=4K seek=$at conv=notrunc status=none
	done
	head -c 20M /dev/zero | dd of=raw bs=1M seek=50 conv=notrunc status=none
	must "$IMG2QCOW" a.qcow raw
	same a.qcow raw
	[ "$(stat -c %b a.qcow)" -lt 400 ] || fail "the image takes $(stat -c %b a.qcow) blocks"
	must "$QCOW2RAW" back a.qcow
	cmp back raw || fail "not the same"
	[ "$(stat -c %b back)" -lt 400 ] || fail "the file takes $(stat -c %b back) blocks"
	[ "$(stat -c %s back)" = "$(stat -c %s raw)" ] || fail "another size"
}

overwriting-is-asked-for() {
	head -c 1M /dev/urandom >raw
	must "$IMG2QCOW" -q a.qcow raw
	echo precious >there
	refuses 'there: is there already' "$QCOW2RAW" there a.qcow
	refuses 'there: is there already' "$IMG2QCOW" there raw
	[ "$(cat there)" = precious ] || fail "it was overwritten"
	refuses 'a.qcow: is what is read' "$QCOW2RAW" -f a.qcow a.qcow
	must "$QCOW_CREATE" -q 0 o.qcow raw
	refuses 'raw: is what is read' "$QCOW2RAW" -f raw o.qcow
	must "$QCOW2RAW" -q -f there a.qcow
	cmp there raw || fail "not written"
	need script
	echo precious >there
	# on a terminal it asks
	echo n | script -qec "$QCOW2RAW -q there a.qcow" /dev/null >out.txt
	grep -q 'Overwrite it' out.txt || fail "did not ask: $(cat out.txt)"
	[ "$(cat there)" = precious ] || fail "overwritten though told not to"
	echo y | script -qec "$QCOW2RAW -q there a.qcow" /dev/null >out.txt
	cmp there raw || fail "not overwritten though told to"
}

images-in-use-are-not-replaced() {
	need qemu-io
	head -c 1M /dev/urandom >raw
	must "$IMG2QCOW" -q a.qcow raw
	held qcow a.qcow
	refuses 'a.qcow: in use' "$IMG2QCOW" -f a.qcow raw
	refuses 'a.qcow: in use' "$QCOW_CREATE" -F 5 a.qcow
	refuses 'a.qcow: in use' "$QCOW2RAW" out a.qcow
	let_go
	must "$IMG2QCOW" -q -f a.qcow raw
}

progress-is-told() {
	head -c 40M /dev/urandom >raw
	"$IMG2QCOW" a.qcow raw 2>err.txt || fail "$(cat err.txt)"
	grep -q '^a.qcow: done, 40 MiB of data, 40 MiB in' err.txt || fail "$(cat err.txt)"
	grep -q '%' err.txt || fail "no plain lines: $(cat err.txt)"
	grep -q $'\r' err.txt && fail "a bar without a terminal"
	"$IMG2QCOW" -qf a.qcow raw 2>err.txt || fail "$(cat err.txt)"
	[ -s err.txt ] && fail "-q says $(cat err.txt)"
	need script
	script -qec "$QCOW2RAW out a.qcow" /dev/null >out.txt
	grep -q '#.*100%.*left' out.txt || fail "no bar on a terminal: $(cat out.txt)"
}

interrupted-leaves-nothing() {
	truncate -s 2G raw
	for i in 0 1 2 3; do
		head -c 100M /dev/urandom | dd of=raw bs=1M seek=$((i * 400)) conv=notrunc status=none
	done
	for signal in INT TERM HUP; do
		for try in 1 2 3 4 5; do
			"$IMG2QCOW" -q a.qcow raw &
			pid=$!
			for _ in $(seq 10000); do
				ls .a.qcow.*.part >/dev/null 2>&1 && break
				sleep 0.01
			done
			kill -$signal $pid 2>/dev/null
			wait $pid
			code=$?
			ls -A | grep -q part && fail "SIG$signal: a part is left"
			[ -e a.qcow ] || break
			must "$TAP_IMG" compare -q qcow:a.qcow raw:raw # whole: it was quicker
			rm a.qcow
		done
		[ $code -gt 128 ] || fail "SIG$signal: exit $code, try $try"
	done
}

manuals() {
	need python3
	for tool in "$QCOW_CREATE" "$IMG2QCOW" "$QCOW2RAW"; do
		name=$(basename "$tool")
		must "$tool" --help
		grep -oE '^  (-., |    )--[a-z-]+' out.txt | grep -oE -- '--.*' | sort >told
		sed -n '/^.SH OPTIONS/,/^.SH EXIT/p' "$here/../../docs/man/$name.1" |
			sed 's/\\-/-/g' | grep -oE -- '--[a-z-]+' | sort >written
		cmp told written || fail "$name: --help and manual differ: $(diff told written)"
	done
}

devices() {
	[ "$(id -u)" = 0 ] || skip "not root: no loop devices"
	need losetup
	head -c 5M /dev/urandom >raw
	truncate -s 8M raw
	must "$IMG2QCOW" -q a.qcow raw
	head -c 8M /dev/urandom >disk
	dev=$(losetup -f --show disk 2>/dev/null) || skip "no loop devices"
	cleanup() { losetup -d "$dev" 2>/dev/null; }
	refuses "$dev: is there already" "$QCOW2RAW" "$dev" a.qcow
	must "$QCOW2RAW" -q -f "$dev" a.qcow
	cmp "$dev" raw || fail "the device holds something else"
	must "$IMG2QCOW" -q b.qcow "$dev"
	same b.qcow raw
	must "$QCOW_CREATE" -q 0 o.qcow "$dev"
	must "$QCOW2RAW" -q flat o.qcow
	cmp flat raw || fail "overlay over a device"
	refuses "$dev: is there already, and is no file" "$IMG2QCOW" -f "$dev" raw
	refuses "$dev: is there already, and is no file" "$QCOW_CREATE" -F 5 "$dev"
	[ -b "$dev" ] || fail "the device's name has been given to a file"
	losetup -d "$dev"
	truncate -s 7M disk
	dev=$(losetup -f --show disk)
	refuses "$dev: too small" "$QCOW2RAW" -f "$dev" a.qcow
}

"$1"
