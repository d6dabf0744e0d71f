#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# reuse.sh CASE: blocks that were freed before the image was opened are used again, and
# hold nothing of what they held.
. "$(dirname "$0")/lib.sh"

length() {
	"$TAP_IMG" info --json -f vhdx a | sed -n 's/.*"file-length": "\([0-9]*\)".*/\1/p'
}

leaks() {
	"$TAP_IMG" check --json -f vhdx a | sed -n 's/.*"leaks": \([0-9]*\).*/\1/p'
}

# freed: an image of 16 blocks, behind each other in the file, that are all freed but for
# the last; that may lie anywhere
freed() {
	rm -f a
	head -c 16M /dev/urandom >noise
	{ head -c 15M /dev/zero; tail -c 1M noise; } >last
	must "$TAP_IMG" convert -q -f raw -O vhdx -o "cluster_size=1M" noise a
	full=$(length)
	must "$TAP_IMG" convert -q -n -f raw -O vhdx last a
	must "$TAP_IMG" compare -q -f vhdx -F raw a last
	[ "$(length)" = "$full" ] || fail "$full bytes became $(length)"
	[ "$(leaks)" = 15 ] || fail "$(leaks) leaks"
}

filled() {
	freed
	must "$TAP_IMG" convert -q -n -f raw -O vhdx noise a
	must "$TAP_IMG" compare -q -f vhdx -F raw a noise
	[ "$(length)" = "$full" ] || fail "$full bytes became $(length)"
	[ "$(leaks)" = 0 ] || fail "$(leaks) leaks"
	sound a
}

# A killed writer's data are there, and no entry shows them: a first write of a part of a
# block must not either.
stale() {
	freed
	used=$("$TAP_IMG" map -f vhdx a | awk '$1 == "0xf00000" { print $3 }')
	for ((at = full - (16 << 20); at < full; at += 1 << 20)); do
		[ $at = $((used)) ] || dd if=/dev/urandom of=a bs=1M seek=$((at >> 20)) count=1 \
			conv=notrunc status=none
	done
	must "$TAP_IMG" compare -q -f vhdx -F raw a last
	sum=$(sha256sum <a)
	[ "$(leaks)" = 15 ] || fail "$(leaks) leaks"
	same_file a "$sum"
	cp last model
	writes a model seed="$seed" ops=200
	[ "$(length)" -le "$full" ] || fail "$full bytes became $(length)"
}

with_seed "$1"
