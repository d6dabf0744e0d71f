# SPDX-License-Identifier: LGPL-2.1-or-later
# Shared by the tests of tap-img. TAP_IMG is the program under test.
. "$(dirname "${BASH_SOURCE[0]}")/../images/lib.sh"
img=$TAP_IMG
mkdir -m 700 memory

# ends CODE COMMAND...: it ends with that; its words are in out.txt and err.txt
ends() {
	local want=$1 code
	shift
	"$@" >out.txt 2>err.txt </dev/null
	code=$?
	[ $code = "$want" ] || fail "$*: exit $code, not $want: $(cat out.txt err.txt)"
}

# noise: what was never the same before
noise() {
	head -c "$1" /dev/urandom
}

# content FILE: 9 MiB and a bit: data, zeroes, a hole
content() {
	{ noise 1M; head -c 1M /dev/zero; yes text | head -c 1M; } >"$1"
	truncate -s 8M "$1"
	noise 1000K >>"$1"
}

# written FILE OFFSET SIZE: new data there, in units of 4 KiB
written() {
	noise $(($3 * 4096)) | command dd of="$1" bs=4096 seek="$2" conv=notrunc status=none
}

# equal FORMAT IMAGE RAW: qemu-img, and we, see in the image what the raw file holds
equal() {
	must qemu-img compare -q -f "$1" -F raw "$2" "$3"
	must "$img" compare -q -f "$1" -F raw "$2" "$3"
}

# json EXPRESSION: of out.txt, in python's words
json() {
	python3 -c "import json; d = json.load(open('out.txt')); print(($1))" ||
		fail "no such JSON: $1: $(cat out.txt)"
}

# is EXPRESSION VALUE
is() {
	local got
	got=$(json "$1")
	[ "$got" = "$2" ] || fail "$1 is $got, not $2: $(cat out.txt)"
}

no-parts() {
	ls -A "${1:-.}" | grep -q '\.part$' && fail "a part is left: $(ls -A "${1:-.}")"
	:
}
