# SPDX-License-Identifier: LGPL-2.1-or-later
driver=qcow2 qemu=qcow2
. "$(dirname "${BASH_SOURCE[0]}")/../images/lib.sh"

# sound IMAGE MODEL [leaks]: qemu-img reads the same and finds nothing wrong
sound() {
	local code
	same "$1" "$2"
	qemu-img check -q -f qcow2 "$1" >out.txt 2>&1
	code=$?
	[ $code = 0 ] || { [ $code = 3 ] && [ "${3:-}" = leaks ]; } ||
		fail "qemu-img check $1: $code: $(head -5 out.txt)"
}

image() { # NAME SIZE OPTION...
	rm -f "$1"
	must qemu-img create -q -f qcow2 "${@:3}" "$1" "$2"
}
