#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# full_disk.sh KIND: the file system fills up while an image is written: writes and
# flushes fail with ENOSPC, nothing is damaged or lost, and writes succeed when there
# is room. What tables the file has no room for is kept until then.
# KIND: alone, overlay.
. "$(dirname "$0")/lib.sh"
[ "$(id -u)" = 0 ] || skip "not root: cannot mount a small file system"
if [ -z "${IN_NAMESPACE:-}" ]; then
	need unshare
	unshare -m true 2>/dev/null || skip "no mount namespaces"
	IN_NAMESPACE=1 unshare -m "$0" "$1"
	exit
fi
mkdir small
mount -t tmpfs -o size=12M none small || skip "cannot mount tmpfs"
cleanup() { umount "$work/small"; }

case $1 in
alone)
	must "$QCOW_CREATE" -q 64 small/a.qcow
	truncate -s 64M model ;;
overlay)
	head -c 64M /dev/urandom >base
	cp base model
	must "$QCOW_CREATE" -q 0 small/a.qcow base ;;
esac
dd if=/dev/zero of=small/filler bs=1M count=10 status=none

# What fails is noted; sectors that no failed write touched must be right.
timeout 300 "$IMAGE_RANDOM" qcow:small/a.qcow model seed=5 ops=1000 full=1 reopen=0 >out.txt 2>&1 ||
	fail "while full: $(cat out.txt)"
grep -q 'failed for want of space: [1-9]' out.txt || fail "it never was full: $(cat out.txt)"
# if there was no room for tables, they wait for one who may write
"$IMAGE_CHECK" small/a.qcow >out.txt 2>&1 || grep -q 'a.qcow: .*for writing' out.txt ||
	fail "$(cat out.txt)"
rm small/filler
must mount -o remount,size=256M small
timeout 300 "$IMAGE_RANDOM" qcow:small/a.qcow model seed=6 ops=400 >out.txt 2>&1 ||
	fail "with room again: $(cat out.txt)"
same small/a.qcow model
