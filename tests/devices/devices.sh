#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Block devices, as loop devices: sectors of 512 and of 4096 bytes, discard and
# zeroing that reach the device, who is kept out while a disk is served, and a
# file system on a device with sectors of 4096 bytes.
#
#   devices.sh TAPDISK DRIVER-TEST
#
# 77: not root, or no loop devices.

set -eu
tapdisk=$1 driver_test=$2
dir=$(mktemp -d)
loop=""
pid=""

# shellcheck disable=SC2317 # called by the trap
finish() {
	[ -z "$pid" ] || { kill "$pid" && wait "$pid"; } 2>/dev/null || true
	! mountpoint -q "$dir/mnt" || umount "$dir/mnt"
	[ -z "$loop" ] || losetup -d "$loop"
	rm -rf "$dir"
}
trap finish EXIT

skip() { echo "skipped: $*"; exit 77; }
fail() { echo "failed: $*" >&2; cat "$dir/log" >&2; exit 1; }
need() { command -v "$1" >/dev/null || skip "$1 is not installed"; }

# usage: serve OPTION...   the loop device, at $dir/s
serve() {
	: >"$dir/log"
	"$tapdisk" --disk "aio:$loop" --nbd "unix:$dir/s" "$@" 2>>"$dir/log" &
	pid=$!
	for _ in $(seq 2000); do
		! grep -q 'bytes, ' "$dir/log" || return 0
		sleep 0.05
	done
	fail "tapdisk does not serve $loop"
}

stop() {
	kill "$pid"
	wait "$pid" || fail "tapdisk ended with $?"
	pid=""
}

# usage: io COMMAND...   qemu-io commands, each of which must do what it says
io() {
	local args=(${how:+"$how"}) out
	for command in "$@"; do args+=(-c "$command"); done
	out=$(timeout 300 qemu-io -f raw "${args[@]}" "nbd+unix:///?socket=$dir/s" 2>&1) ||
		fail "$out"
	! grep -qiE 'failed|error' <<<"$out" || fail "$out"
}

# usage: refused WORDS SPEC OPTION...
refused() {
	local words=$1 out status=0
	shift
	out=$(timeout 300 "$tapdisk" --disk "$@" 2>&1) || status=$?
	[ "$status" = 1 ] || fail "$*: status $status, not 1: $out"
	[ "$(wc -l <<<"$out")" = 1 ] || fail "$*: more than a line: $out"
	grep -qF "$words" <<<"$out" || fail "$*: $out"
}

attach() {
	rm -f "$dir/file"
	truncate -s 64M "$dir/file"
	loop=$(losetup -f --show -b "$1" "$dir/file" 2>"$dir/log") ||
		skip "no loop devices: $(cat "$dir/log")"
}

detach() {
	losetup -d "$loop"
	loop=""
}

blocks() { stat -c %b "$dir/file"; }

serves_sectors_of() {
	local before
	attach "$1"
	serve
	nbdinfo "nbd+unix:///?socket=$dir/s" | grep -q "block_size_minimum: $1\$" ||
		fail "block_size_minimum is not $1"
	io 'write -P 5 0 8M' 'write -P 6 512 512' "write -P 7 $((1024 * 1024 - 512)) 8k" flush \
		'read -P 5 0 512' 'read -P 6 512 512' 'read -P 5 1k 1022k' 'read -P 7 1048064 8k'
	before=$(blocks)
	io 'discard 4M 2M' 'write -z -u 6M 1M' flush 'read -P 0 6M 1M' 'read -P 5 7M 1M'
	[ "$(blocks)" -lt $((before - 5000)) ] ||
		fail "discard freed nothing: $before, then $(blocks) blocks of 512"
	before=$(blocks)
	io 'write -z 2M 1M' flush 'read -P 0 2M 1M' 'read -P 5 3M 1M'
	refused 'in use' "aio:$loop"
	refused 'in use' "aio:$loop" --read-only
	! timeout 300 qemu-io -f raw "$loop" -c 'write 0 4k' >/dev/null 2>&1 ||
		fail "qemu-io may write to a device that is served"
	stop
	detach
}

leaves_alone_what_is_mounted() {
	attach 512
	mkfs.ext4 -q "$loop"
	mkdir -p "$dir/mnt"
	mount "$loop" "$dir/mnt" 2>/dev/null || skip "may not mount"
	refused 'mounted' "aio:$loop"
	umount "$dir/mnt"
	serve
	! mount "$loop" "$dir/mnt" 2>/dev/null || fail "mounted while it is served"
	stop
	detach
}

read_only_changes_nothing() {
	local before
	attach 4096
	before=$(sha256sum <"$dir/file")
	serve --read-only
	how=-r io 'read -P 0 0 1M'
	! timeout 300 qemu-io -f raw "nbd+unix:///?socket=$dir/s" -c 'write 0 4k' >/dev/null 2>&1 ||
		fail "wrote to a read-only disk"
	stop
	[ "$before" = "$(sha256sum <"$dir/file")" ] || fail "a read-only disk changed"
	detach
}

# Sectors of 512 bytes in a file that the kernel takes in blocks of 4096 only.
the_suite_on_a_4Kn_file_system() {
	rm -f "$dir/file"
	truncate -s 1G "$dir/file"
	loop=$(losetup -f --show -b 4096 "$dir/file")
	mkfs.ext4 -q -b 4096 "$loop"
	mkdir -p "$dir/mnt"
	mount "$loop" "$dir/mnt"
	for engine in io_uring libaio; do
		"$driver_test" -e "$engine" -d "$dir/mnt" -x aio aio:%f >"$dir/log" 2>&1 ||
			fail "the image suite on $engine"
	done
	umount "$dir/mnt"
	detach
}

need losetup
need qemu-io
need nbdinfo
[ "$(id -u)" = 0 ] || skip "loop devices need root"
: >"$dir/log"
serves_sectors_of 512
serves_sectors_of 4096
leaves_alone_what_is_mounted
read_only_changes_nothing
the_suite_on_a_4Kn_file_system
