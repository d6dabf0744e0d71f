# SPDX-License-Identifier: LGPL-2.1-or-later
# What the VMDK tests add to ../qcow/lib.sh.
. "$(dirname "${BASH_SOURCE[0]}")/../qcow/lib.sh"
export BLKTAP_SURVIVOR_DIR=$work/memory
export PYTHONDONTWRITEBYTECODE=1
tests=$here/../vmdk

# sound IMAGE MODEL: qemu-img reads the same and finds nothing wrong
sound() {
	must qemu-img compare -q -f vmdk -F raw "$1" "$2"
	[ -n "${no_check:-}" ] || must qemu-img check -q -f vmdk "$1"
}

# writes IMAGE MODEL KEY=VALUE...: random requests of ours, then both are compared
writes() {
	timeout 120 "$QCOW_RANDOM" "vmdk:$1" "$2" "${@:3}" >out.txt 2>&1 ||
		fail "${*:3} on $1: $(cat out.txt)"
	sound "$1" "$2"
	[ -z "$(ls "$BLKTAP_SURVIVOR_DIR" 2>/dev/null)" ] || fail "survivor memory was left"
}

# theirs IMAGE MODEL SEED: random writes and zeroes of qemu-io, in both
theirs() {
	python3 - "$2" "$3" >commands.txt <<'PY'
import os, random, sys
path, rnd = sys.argv[1], random.Random(int(sys.argv[2]))
size = os.path.getsize(path)
for i in range(40):
    at = rnd.randrange(0, size - 512, 512)
    n = min(rnd.choice([512, 4096, 65536, 200 * 512, 300000 // 512 * 512]), size - at)
    print(rnd.choice([f"write -P {rnd.randrange(1, 255)} {at} {n}", f"write -z {at} {n}"]))
PY
	qemu-io -f vmdk "$1" <commands.txt >out.txt 2>&1 || fail "qemu-io on $1: $(tail -3 out.txt)"
	qemu-io -f raw "$2" <commands.txt >out.txt 2>&1 || fail "qemu-io on $2: $(tail -3 out.txt)"
}

ours_reads() { # IMAGE MODEL: ours sees what the model holds, and no damage
	must "$QCOW_CHECK" "vmdk:$1"
	writes "$1" "$2" ops=1
}

content() { # 9 MiB and a bit: zeroes, noise, text; a last grain that is cut
	{ head -c 3M /dev/zero; head -c 3M /dev/urandom; yes some text | head -c 3M
	  head -c 1536 /dev/urandom; } >raw
}

model() { # SIZE
	rm -f model
	truncate -s "$1" model
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

# poke IMAGE AT HEX: bytes of the file
poke() {
	# shellcheck disable=SC2059 # the bytes are the format
	printf "$(sed 's/../\\x&/g' <<<"$3")" |
		dd of="$1" bs=1 seek=$(($2)) conv=notrunc status=none
}

peek() { # IMAGE AT LENGTH
	od -An -tx1 -j "$2" -N "$3" "$1" | tr -d ' \n'
}
