#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# killed.sh KIND [OPTION...]: the kill test on a fresh disk of that kind. Options are
# killed's own. The environment names the programs: KILLED, TAPDISK, QCOW_CREATE.
set -eu
kind=$1
shift
work=$(mktemp -d "${TMPDIR:-/tmp}/killed-test.XXXXXX")
trap 'rm -rf "$work"' EXIT
image=$work/image
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
qcow)
	"$QCOW_CREATE" -q "$size" "$image"
	spec=qcow:$image ;;
qcow-overlay)
	base
	"$QCOW_CREATE" -q 0 "$image" "$work/base"
	spec=qcow:$image ;;
qcow2)
	"$QCOW_CREATE" -q -f qcow2 "$size" "$image"
	spec=qcow2:$image ;;
qcow2-overlay)
	base
	"$QCOW_CREATE" -q -f qcow2 0 "$image" "$work/base"
	spec=qcow2:$image ;;
vhd)
	"$QCOW_CREATE" -q -f vhd "$size" "$image"
	spec=vhd:$image ;;
vhd-overlay)
	base
	"$QCOW_CREATE" -q -f vhd 0 "$image" "$work/base"
	spec=vhd:$image ;;
vmdk)
	"$QCOW_CREATE" -q -f vmdk "$size" "$image"
	spec=vmdk:$image ;;
vmdk-overlay)
	base
	"$QCOW_CREATE" -q -f vmdk 0 "$image" "$work/base"
	spec=vmdk:$image ;;
*)
	echo "killed.sh: there is no kind $kind" >&2
	exit 2 ;;
esac
"$KILLED" "$@" "$TAPDISK" "$spec"
