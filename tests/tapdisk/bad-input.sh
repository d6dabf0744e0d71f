#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# What tapdisk is asked to do and cannot: one line that names the file or option,
# exit code 1 (2 for a wrong command line), and nothing left behind. A full file
# system is an error of the write that meets it, and of nothing else.
#
#   bad-input.sh TAPDISK QCOW-CREATE words|full-disk

set -eu
tapdisk=$1 qcow_create=$2
dir=$(mktemp -d)
pid=""

# shellcheck disable=SC2317 # called by the trap
finish() {
	[ -z "$pid" ] || { kill "$pid" && wait "$pid"; } 2>/dev/null || true
	! mountpoint -q "$dir/small" || umount "$dir/small"
	rm -rf "$dir"
}
trap finish EXIT

skip() { echo "skipped: $*"; exit 77; }
fail() { echo "failed: $*" >&2; exit 1; }

# usage: refused STATUS WORDS OPTION...
refused() {
	local want=$1 words=$2 out status=0 before after
	shift 2
	before=$(ls -R "$dir")
	out=$(timeout 300 "$tapdisk" "$@" 2>&1) || status=$?
	after=$(ls -R "$dir")
	[ "$status" = "$want" ] || fail "$*: status $status, not $want: $out"
	[ "$(wc -l <<<"$out")" = 1 ] || fail "$*: more than a line: $out"
	grep -qF -- "$words" <<<"$out" || fail "$*: no \"$words\": $out"
	[ "$before" = "$after" ] || fail "$*: left something behind: $after"
}

bad_files() {
	printf '%1000s' x >"$dir/odd"
	: >"$dir/empty"
	truncate -s 1M "$dir/raw"
	mkfifo "$dir/pipe"
	refused 1 "$dir/none: No such file" --disk "aio:$dir/none"
	refused 1 "$dir: a directory" --disk "aio:$dir"
	refused 1 "$dir/pipe: special" --disk "aio:$dir/pipe"
	refused 1 "/dev/null: special" --disk aio:/dev/null
	refused 1 "$dir/odd: its size of 1000 bytes is no multiple" --disk "aio:$dir/odd"
	refused 1 "$dir/empty: its size is 0" --disk "aio:$dir/empty"
	refused 1 "$dir/raw: not a qcow image" --disk "qcow:$dir/raw"
	if [ "$(id -u)" != 0 ]; then
		chmod 0 "$dir/odd"
		refused 1 "$dir/odd: Permission denied" --disk "aio:$dir/odd"
	fi
}

bad_images() {
	"$qcow_create" -q 0 "$dir/overlay" "$dir/raw"
	truncate -s 2M "$dir/raw"
	refused 1 "but its backing file $dir/raw has 2097152" --disk "qcow:$dir/overlay"
	mv "$dir/raw" "$dir/moved"
	refused 1 "$dir/overlay: its backing file: $dir/raw: No such file" \
		--disk "qcow:$dir/overlay"
	mv "$dir/moved" "$dir/raw"
	truncate -s 20 "$dir/overlay"
	refused 1 "$dir/overlay: " --disk "qcow:$dir/overlay"
}

bad_words() {
	refused 2 "--disk is missing"
	refused 2 "unknown option --speed" --speed 9
	refused 2 "--disk needs a value" --disk
	refused 2 "--ready-fd" --disk "aio:$dir/raw" --ready-fd x
	refused 1 'no driver is called "foo"' --disk "foo:$dir/raw"
	refused 1 "names no target" --disk aio:
	refused 1 "type:target" --disk aio
	refused 1 'unknown option "x"' --disk "aio:$dir/raw,x=1"
	refused 1 "read-only=maybe" --disk "aio:$dir/raw,read-only=maybe"
	refused 1 'no I/O engine is called "foo"' --disk "aio:$dir/raw" --engine foo
	refused 1 "tcp:x" --disk "aio:$dir/raw" --nbd tcp:x
	refused 1 "unix:$dir/none/s" --disk "aio:$dir/raw" --nbd "unix:$dir/none/s"
}

# usage: serve SPEC OPTION...
serve() {
	: >"$dir/log"
	"$tapdisk" --disk "$@" --nbd "unix:$dir/s" 2>"$dir/log" &
	pid=$!
	for _ in $(seq 2000); do
		! grep -q 'bytes, ' "$dir/log" || return 0
		sleep 0.05
	done
	fail "tapdisk does not serve: $(cat "$dir/log")"
}

second_writer() {
	serve "aio:$dir/raw"
	refused 1 "$dir/raw: in use by another process" --disk "aio:$dir/raw"
	refused 1 "$dir/raw: in use by another process" --disk "aio:$dir/raw" --read-only
	kill "$pid"
	wait "$pid" || fail "tapdisk ended with $?"
	pid=""
}

# usage: io COMMAND...
io() {
	local args=()
	for command in "$@"; do args+=(-c "$command"); done
	timeout 300 qemu-io -f raw "nbd+unix:///?socket=$dir/s" "${args[@]}" 2>&1 | grep -v ops
}

full_disk() {
	local out type engine
	command -v qemu-io >/dev/null || skip "qemu-io is not there"
	mkdir "$dir/small"
	mount -t tmpfs -o size=3m none "$dir/small" 2>/dev/null ||
		skip "a file system cannot be mounted here"
	for type in aio qcow; do
		for engine in io_uring libaio; do
			rm -f "$dir/small/"*
			[ $type = qcow ] || truncate -s 8M "$dir/small/image"
			[ $type = aio ] || "$qcow_create" -q 8 "$dir/small/image"
			serve "$type:$dir/small/image" --engine "$engine"
			out=$(io 'write -P 1 0 1M' 'write -P 2 1M 4M' 'read -P 1 0 1M' flush)
			[ "$(grep -c 'No space left' <<<"$out")" = 1 ] || fail "$type: $out"
			[ "$(grep -c failed <<<"$out")" = 1 ] || fail "$type: $out"
			out=$(io 'discard 1M 4M' 'write -P 3 1M 256k' 'read -P 3 1M 256k' \
				'read -P 1 0 1M' flush)
			! grep -q failed <<<"$out" || fail "$type, with room again: $out"
			kill "$pid"
			wait "$pid" || fail "$type: tapdisk ended with $?"
			pid=""
		done
	done
	umount "$dir/small"
}

case $3 in
words)
	bad_files
	bad_images
	bad_words
	second_writer ;;
full-disk) full_disk ;;
esac
