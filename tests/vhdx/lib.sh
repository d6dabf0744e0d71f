# SPDX-License-Identifier: LGPL-2.1-or-later
# What the VHDX tests add to ../qcow/lib.sh: images compared by others, and their parts.
. "$(dirname "${BASH_SOURCE[0]}")/../qcow/lib.sh"
export BLKTAP_SURVIVOR_DIR=$work/memory

# libvhdi IMAGE MODEL [PARENT]: libvhdi, where it is, reads the same
libvhdi() {
	/usr/bin/python3 -c 'import pyvhdi' 2>/dev/null || return 0
	must /usr/bin/python3 - "$@" <<'PY'
import sys, pyvhdi

def open_image(path):
    image = pyvhdi.file()
    image.open(path)
    return image

image = open_image(sys.argv[1])
if len(sys.argv) > 3:
    parent = open_image(sys.argv[3])
    image.set_parent(parent)
with open(sys.argv[2], "rb") as model:
    at = 0
    while want := model.read(1 << 20):
        if image.read_buffer_at_offset(len(want), at) != want:
            sys.exit("libvhdi reads something else at %d" % at)
        at += len(want)
if at != image.get_media_size():
    sys.exit("libvhdi: %d bytes" % image.get_media_size())
PY
}

sound() { # IMAGE: our check finds no corruption
	must "$QCOW_CHECK" "vhdx:$1"
	grep -qx 'corruptions: 0' out.txt || fail "check: $(cat out.txt)"
}

# writes IMAGE MODEL KEY=VALUE...: random requests of ours
writes() {
	timeout 120 "$QCOW_RANDOM" "vhdx:$1" "$2" "${@:3}" >out.txt 2>&1 ||
		fail "${*:3} on $1: $(cat out.txt)"
	sound "${1%%,*}"
	[ -z "$(ls "$BLKTAP_SURVIVOR_DIR" 2>/dev/null)" ] || fail "survivor memory was left"
}

# all_agree IMAGE MODEL: everybody reads the same
all_agree() {
	must qemu-img check -q -f vhdx "$1"
	must qemu-img compare -q -f vhdx -F raw "$1" "$2"
	libvhdi "$1" "$2"
}

# theirs IMAGE MODEL SIZE: some writes by qemu-io, to both
theirs() {
	local n at len tag
	for n in 1 2 3 4 5 6; do
		at=$((RANDOM * 32768 + RANDOM))
		at=$((at % ($3 - 256 * 1024) / 512 * 512))
		len=$(((RANDOM % 400 + 1) * 512)) tag=$((RANDOM % 255 + 1))
		must qemu-io -f vhdx -c "write -P $tag $at $len" "$1"
		must qemu-io -f raw -c "write -P $tag $at $len" "$2"
	done
}

# edit IMAGE COMMAND...: its parts are changed, and sealed anew (edit.py says how)
edit() {
	must python3 "$here/../vhdx/edit.py" "$@"
}

same_file() { # IMAGE SUM: not one byte of it has changed
	[ "$(sha256sum <"$1")" = "$2" ] || fail "$1 was changed"
}
