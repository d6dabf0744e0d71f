# SPDX-License-Identifier: LGPL-2.1-or-later
driver=vmdk qemu=vmdk
. "$(dirname "${BASH_SOURCE[0]}")/../images/lib.sh"

# sound IMAGE MODEL: qemu-img reads the same and finds nothing wrong
sound() {
	same "$1" "$2"
	[ -n "${no_check:-}" ] || must qemu-img check -q -f vmdk "$1"
}

ours_reads() { # IMAGE MODEL: ours sees what the model holds, and no damage
	must "$IMAGE_CHECK" "vmdk:$1"
	writes "$1" "$2" ops=1
}

# libvmdk_reads IMAGE MODEL: libvmdk, where it is, reads the same
libvmdk_reads() {
	/usr/bin/python3 -c 'import pyvmdk' 2>/dev/null || return 0
	must vmdkinfo "$1"
	must /usr/bin/python3 - "$1" "$2" <<'PY'
import pyvmdk, sys
h = pyvmdk.handle()
h.open(sys.argv[1])
h.open_extent_data_files()
with open(sys.argv[2], "rb") as f:
    while want := f.read(65536):
        got = h.read_buffer(len(want))
        if got != want:
            sys.exit("libvmdk reads something else before %d" % f.tell())
PY
}

clean() {
	rm -f ./*.vmdk
}
