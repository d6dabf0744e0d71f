# SPDX-License-Identifier: LGPL-2.1-or-later
# What the qcow2 tests add to ../qcow/lib.sh: images of ours compared and checked by
# qemu-img.
. "$(dirname "${BASH_SOURCE[0]}")/../qcow/lib.sh"
export BLKTAP_SURVIVOR_DIR=$work/memory

# sound IMAGE MODEL [leaks]: qemu-img reads the same and finds nothing wrong
sound() {
	local code
	must qemu-img compare -q -f qcow2 -F raw "$1" "$2"
	qemu-img check -q -f qcow2 "$1" >out.txt 2>&1
	code=$?
	[ $code = 0 ] || { [ $code = 3 ] && [ "${3:-}" = leaks ]; } ||
		fail "qemu-img check $1: $code: $(head -5 out.txt)"
}

# writes IMAGE MODEL KEY=VALUE...: random requests of ours, then both are compared
writes() {
	timeout 120 "$QCOW_RANDOM" "qcow2:$1${options:-}" "$2" "${@:3}" >out.txt 2>&1 ||
		fail "${*:3} on $1: $(cat out.txt)"
	sound "$1" "$2"
	[ -z "$(ls "$BLKTAP_SURVIVOR_DIR" 2>/dev/null)" ] || fail "survivor memory was left"
}

content() { # 9 MiB and a bit: zeroes, noise, text; a last cluster that is cut
	{ head -c 3M /dev/zero; head -c 3M /dev/urandom; yes some text | head -c 3M
	  head -c 1536 /dev/urandom; } >raw
}

image() { # NAME SIZE OPTION...
	rm -f "$1"
	must qemu-img create -q -f qcow2 "${@:3}" "$1" "$2"
}
