# SPDX-License-Identifier: LGPL-2.1-or-later
driver=vhd qemu=vpc
. "$(dirname "${BASH_SOURCE[0]}")/../images/lib.sh"

sound() { # IMAGE
	checked "$1"
}

# all_agree IMAGE MODEL: everybody reads the same
all_agree() {
	same "$1" "$2"
	libvhdi "$1" "$2"
}
