#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# killed.sh KIND [OPTION...]: the kill test on a fresh disk: aio, a format, or
# FORMAT-overlay over a raw file. Options are killed's own. The environment names the
# programs: KILLED, TAPDISK, QCOW_CREATE, TAP_IMG.
set -eu
kind=$1
shift
work=$(mktemp -d "${TMPDIR:-/tmp}/killed-test.XXXXXX")
trap 'rm -rf "$work"' EXIT
image=$work/image
# What a failed test leaves, in survivor memory too, goes with it.
export TMPDIR=$work BLKTAP_SURVIVOR_DIR=$work/survivors
mkdir -m 700 "$BLKTAP_SURVIVOR_DIR"
size=24

# Not zeroes: what is not written must come from here.
base() {
	head -c "${size}M" /dev/urandom >"$work/base"
}

# A server that keeps what it has acknowledged in its own memory: the test must
# notice. qemu-nbd does so with the tables of qcow2.
lossy() {
	command -v qemu-nbd >/dev/null || {
		echo "skipped: qemu-nbd is not installed"
		exit 77
	}
	qemu-img create -q -f qcow2 "$image" "${size}M"
	cat >"$work/server" <<-END
	#!/bin/sh
	exec qemu-nbd -f qcow2 -k "\${4#unix:}" "$image"
	END
	chmod +x "$work/server"
	if "$KILLED" "$@" "$work/server" "qcow2:$image" >"$work/out"; then
		cat "$work/out"
		echo "not ok: qemu-nbd lost nothing?"
		exit 1
	fi
	cat "$work/out"
	grep -q 'not ok: byte .* should hold tag' "$work/out"
}

case $kind in
lossy)
	lossy "$@"
	exit ;;
aio)
	base
	mv "$work/base" "$image"
	spec=aio:$image ;;
*-encrypted)
	printf secret >"$work/key"
	chmod 600 "$work/key"
	how=encryption=luks,iter-time=0
	[ "$kind" != qcow-encrypted ] || how=encryption=aes,weak=on
	"$TAP_IMG" create -q -f "${kind%-encrypted}" -o "$how,key-file=$work/key" "$image" \
		"${size}M"
	spec=${kind%-encrypted}:$image,key-file=$work/key ;;
*-overlay)
	base
	"$QCOW_CREATE" -q -f "${kind%-overlay}" 0 "$image" "$work/base"
	spec=${kind%-overlay}:$image ;;
*)
	"$QCOW_CREATE" -q -f "$kind" "$size" "$image"
	spec=$kind:$image ;;
esac
"$KILLED" "$@" "$TAPDISK" "$spec"
