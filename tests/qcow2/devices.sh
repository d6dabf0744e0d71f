#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# devices.sh CASE: images inside a block device, whose room is full of what somebody
# left. Skipped where there are no loop devices.
. "$(dirname "$0")/lib.sh"
need qemu-img losetup
[ "$(id -u)" = 0 ] || skip "not root"
loop=""
cleanup() { [ -z "$loop" ] || losetup -d "$loop"; }

device() { # SIZE: a new one
	[ -z "$loop" ] || losetup -d "$loop"
	loop=""
	head -c "$1" /dev/urandom >under
	loop=$(losetup -f --show under 2>/dev/null) || skip "no loop devices"
}

# What is left there never shows, and never gets an owner that it had not.
room() {
	content
	for kind in cluster_size=512 cluster_size=64K,extended_l2=on cluster_size=64K; do
		for over in "-b $work/raw -F raw" ""; do
			[ -n "$over" ] || [ $kind = cluster_size=64K ] || continue
			device 48M
			# shellcheck disable=SC2086
			must qemu-img create -q -f qcow2 -o $kind $over "$loop" 11M
			rm -f model
			[ -z "$over" ] || cp raw model
			[ -n "$over" ] || touch model
			truncate -s 11M model
			writes "$loop" model ops=250
			must "$TAP_IMG" resize -q -f qcow2 "$loop" 14M
			truncate -s 14M model
			writes "$loop" model ops=150
		done
	done
	must "$QCOW2_OPS" "qcow2:$loop" make one
	cp model one
	writes "$loop" model ops=150
	must "$QCOW2_OPS" "qcow2:$loop" apply one
	sound "$loop" one
}

# A device that is full: an error that names it, and a whole image.
full() {
	device 4M
	must qemu-img create -q -f qcow2 "$loop" 11M
	truncate -s 11M model
	timeout 300 "$IMAGE_RANDOM" "qcow2:$loop" model ops=1000 full=1 >out.txt 2>&1 ||
		fail "$(cat out.txt)"
	grep -q "$loop: no room is left on the device" out.txt || fail "$(tail -3 out.txt)"
	sound "$loop" model leaks
	must qemu-img create -q -f qcow2 "$loop" 2M
	rm -f model
	truncate -s 2M model
	writes "$loop" model ops=200
}

# Marked dirty, refcounts lost: nothing that tables show is taken for room.
dirty() {
	content
	device 32M
	must qemu-img create -q -f qcow2 -o cluster_size=4K,lazy_refcounts=on "$loop" 10M
	( qemu-io -f qcow2 -c "write -P 7 1M 5M" -c flush -c abort "$loop" ) >/dev/null 2>&1
	qemu-img convert -U -f qcow2 -O raw "$loop" model || fail "convert"
	writes "$loop" model ops=150
}

killed() {
	device 64M
	must qemu-img create -q -f qcow2 "$loop" 24M
	timeout 300 "$KILLED" -T 2 "$TAPDISK" "qcow2:$loop" >out.txt 2>&1 || fail "$(cat out.txt)"
}

"$1"
