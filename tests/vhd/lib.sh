# SPDX-License-Identifier: LGPL-2.1-or-later
# What the VHD tests add to ../qcow/lib.sh: images compared by others, and their parts.
. "$(dirname "${BASH_SOURCE[0]}")/../qcow/lib.sh"
export BLKTAP_SURVIVOR_DIR=$work/memory

# libvhdi IMAGE MODEL [PARENT]: libvhdi, where it is, reads the same. Over a parent it
# (20210425) takes eight sectors for the image's own if some of them are: such are left out.
libvhdi() {
	/usr/bin/python3 -c 'import pyvhdi' 2>/dev/null || return 0
	must /usr/bin/python3 - "$@" <<'PY'
import struct, sys, pyvhdi

def open_image(path):
    image = pyvhdi.file()
    image.open(path)
    return image

image = open_image(sys.argv[1])
mixed = set()
if len(sys.argv) > 3:
    parent = open_image(sys.argv[3])
    image.set_parent(parent)
    data = open(sys.argv[1], "rb").read()
    bat, entries, block = struct.unpack(">Q4xII", data[528:548])
    for i in range(entries):
        at = struct.unpack(">I", data[bat + 4 * i:bat + 4 * i + 4])[0]
        for n in range(block // 4096 if at != 0xffffffff else 0):
            if data[at * 512 + n] not in (0, 255):
                mixed.add(i * (block // 4096) + n)
piece = 4096 if mixed else 1 << 20
with open(sys.argv[2], "rb") as model:
    at = 0
    while want := model.read(piece):
        if at // piece not in mixed and image.read_buffer_at_offset(len(want), at) != want:
            sys.exit("libvhdi reads something else at %d" % at)
        at += len(want)
if not at <= image.get_media_size():
    sys.exit("libvhdi: too small")
PY
}

sound() { # IMAGE: our check finds nothing at all
	must "$QCOW_CHECK" "vhd:$1"
	grep -qx 'corruptions: 0' out.txt && grep -qx 'leaks: 0' out.txt ||
		fail "check: $(cat out.txt)"
}

# writes IMAGE MODEL KEY=VALUE...: random requests of ours
writes() {
	timeout 120 "$QCOW_RANDOM" "vhd:$1" "$2" "${@:3}" >out.txt 2>&1 ||
		fail "${*:3} on $1: $(cat out.txt)"
	sound "${1%%,*}"
	[ -z "$(ls "$BLKTAP_SURVIVOR_DIR" 2>/dev/null)" ] || fail "survivor memory was left"
}

# all_agree IMAGE MODEL: everybody reads the same
all_agree() {
	must qemu-img compare -q -f vpc -F raw "$1" "$2"
	libvhdi "$1" "$2"
}

# theirs IMAGE MODEL SIZE: some writes by qemu-io, to both
theirs() {
	local n at len tag
	for n in 1 2 3 4 5 6; do
		at=$((RANDOM * 512 % ($3 - 256 * 1024) / 512 * 512))
		len=$(((RANDOM % 400 + 1) * 512)) tag=$((RANDOM % 255 + 1))
		must qemu-io -f vpc -c "write -P $tag $at $len" "$1"
		must qemu-io -f raw -c "write -P $tag $at $len" "$2"
	done
}

# edit IMAGE COMMAND...: its parts are changed, and sealed anew (edit.py says how)
edit() {
	must python3 "$here/../vhd/edit.py" "$@"
}
