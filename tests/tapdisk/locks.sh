#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# QEMU's tools and tapdisk respect each other's locks: nobody writes what the
# other writes or reads, readers share, and the backing file of an overlay in use
# may be read and not written.
#
#   locks.sh TAPDISK QCOW-CREATE

set -eu
tapdisk=$1 qcow_create=$2
for tool in qemu-io qemu-img qemu-nbd; do
	command -v $tool >/dev/null || { echo "skipped: $tool is not installed"; exit 77; }
done
dir=$(mktemp -d)
pid=""
finish() {
	stop
	rm -rf "$dir"
}
trap finish EXIT

fail() { echo "failed: $*" >&2; exit 1; }

stop() {
	[ -z "$pid" ] || { kill "$pid" && wait "$pid"; } 2>/dev/null || true
	pid=""
}

# usage: started COMMAND...   (in the background, until its socket answers)
started() {
	rm -f "$dir/s"
	"$@" >"$dir/log" 2>&1 &
	pid=$!
	for _ in $(seq 2000); do
		! qemu-img info "nbd+unix:///?socket=$dir/s" >/dev/null 2>&1 || return 0
		sleep 0.05
	done
	fail "$*: does not serve: $(cat "$dir/log")"
}

ours() { started "$tapdisk" --nbd "unix:$dir/s" --disk "$@"; }
theirs() { started qemu-nbd --persistent --socket "$dir/s" "$@"; }

# usage: may|may_not read|write FORMAT FILE   (QEMU's tools)
may() { qemu "$@" >"$dir/out" 2>&1 || fail "may $*: $(cat "$dir/out")"; }

may_not() {
	! qemu "$@" >"$dir/out" 2>&1 || fail "may not $*, and could"
	grep -q '"write" lock' "$dir/out" || fail "may not $*, but for: $(cat "$dir/out")"
}

qemu() {
	case $1 in
	read) timeout 300 qemu-img convert -f "$2" -O raw "$3" "$dir/copy" ;;
	write) timeout 300 qemu-io -f "$2" -c "write 0 512" "$3" ;;
	esac
}

# usage: refused FILE TAPDISK-OPTION...
refused() {
	local file=$1 out status=0
	shift
	out=$(timeout 300 "$tapdisk" --disk "$@" 2>&1) || status=$?
	[ $status = 1 ] || fail "tapdisk $*: $status: $out"
	grep -qF "$file: in use by another process" <<<"$out" || fail "tapdisk $*: $out"
}

truncate -s 1M "$dir/raw"
"$qcow_create" -q 0 "$dir/over" "$dir/raw"

ours "aio:$dir/raw"
may_not write raw "$dir/raw"
may_not read raw "$dir/raw"
stop
ours "aio:$dir/raw" --read-only
may_not write raw "$dir/raw"
may read raw "$dir/raw"
stop
ours "qcow:$dir/over"
may_not write qcow "$dir/over"
may_not read qcow "$dir/over"
may_not write raw "$dir/raw"
may read raw "$dir/raw"
stop
may write qcow "$dir/over"
may write raw "$dir/raw"

theirs -f raw "$dir/raw"
refused "$dir/raw" "aio:$dir/raw"
refused "$dir/raw" "aio:$dir/raw" --read-only
refused "$dir/raw" "qcow:$dir/over"
stop
theirs -f qcow "$dir/over"
refused "$dir/over" "qcow:$dir/over"
stop
theirs -f qcow --read-only "$dir/over"
refused "$dir/over" "qcow:$dir/over"
stop
