# SPDX-License-Identifier: LGPL-2.1-or-later
driver=vhdx qemu=vhdx
. "$(dirname "${BASH_SOURCE[0]}")/../images/lib.sh"

sound() { # IMAGE: our check finds no corruption
	must "$IMAGE_CHECK" "vhdx:$1"
	grep -qx 'corruptions: 0' out.txt || fail "check: $(cat out.txt)"
}

# all_agree IMAGE MODEL: everybody reads the same
all_agree() {
	must qemu-img check -q -f vhdx "$1"
	same "$1" "$2"
	libvhdi "$1" "$2"
}
