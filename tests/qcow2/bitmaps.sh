#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# bitmaps.sh CASE: persistent bitmaps of the image are true, or marked. What they hold
# is told by qemu-nbd.
. "$(dirname "$0")/lib.sh"
need qemu-img qemu-io qemu-nbd python3

# dirty IMAGE BITMAP: the extents that it has, "START LENGTH", by qemu
dirty() {
	qemu-nbd -r -f qcow2 -B "$2" -k "$work/sock" -t "$1" >nbd.txt 2>&1 &
	local server=$! tries=0
	until qemu-img map --output=json --image-opts \
		"driver=nbd,server.type=unix,server.path=$work/sock,x-dirty-bitmap=qemu:dirty-bitmap:$2" \
		>map.json 2>map.txt; do
		tries=$((tries + 1))
		[ $tries -lt 2000 ] || { kill $server; fail "qemu-nbd: $(cat nbd.txt map.txt)"; }
		sleep 0.05
	done
	kill $server
	wait $server 2>/dev/null
	python3 -c 'import json, sys
for e in json.load(open("map.json")):
    if not e["data"]: print(e["start"], e["length"])'
}

# covers IMAGE BITMAP OLD NEW: all that differs between two raw files is in it, not all is
covers() {
	dirty "$1" "$2" >extents
	python3 - "$3" "$4" <<'PY' || fail "$1: $2 is not true"
import sys
old, new = (open(f, "rb").read() for f in sys.argv[1:])
rows = [tuple(map(int, line.split())) for line in open("extents")]
old = old.ljust(len(new), b"\0")
at = 0
for start, length in rows + [(len(new), 0)]:
    if old[at:start] != new[at:start]:
        sys.exit(f"differs between {at} and {start}")
    at = start + length
if not rows or sum(n for _, n in rows) >= len(new):
    sys.exit(f"{rows} is no answer")
PY
}

flags() { # IMAGE: of each bitmap
	qemu-img info --output=json "$1" | python3 -c 'import json, sys
for b in json.load(sys.stdin)["format-specific"]["data"].get("bitmaps", []):
    print(b["name"], *sorted(b["flags"]))'
}

# Writes, zeroes and discards of ours are in those that are enabled, and in no other.
kept() {
	content
	for kind in cluster_size=512; do
		rm -f a
		must qemu-img convert -f raw -O qcow2 -o $kind raw a
		must qemu-img bitmap --add -g 4K a fine
		must qemu-img bitmap --add -g 64K a off
		must qemu-img bitmap --disable a off
		cp raw model
		writes a model ops=30 full=0 seed=$RANDOM
		covers a fine raw model
		[ -z "$(dirty a off)" ] || fail "the disabled one has bits"
		cp model second
		writes a model ops=30 seed=$RANDOM
		covers a fine raw model
		[ "$(flags a)" = "$(printf 'fine auto\noff')" ] || fail "flags: $(flags a)"
		"$TAP_IMG" info -f qcow2 a >out.txt
		grep -q '^bitmap fine: 4096 bytes to a bit, enabled$' out.txt &&
			grep -q '^bitmap off: 65536 bytes to a bit, disabled$' out.txt ||
			fail "info: $(cat out.txt)"
		must "$QCOW2_OPS" qcow2:a check
		grep -q '^0 corruptions, 0 fixed; 0 leaks' out.txt || fail "$(cat out.txt)"
		must "$QCOW2_OPS" qcow2:a repair all
		must qemu-img bitmap --merge fine a off # it can be loaded, and be stored again
		sound a model
	done
}

# Longer and shorter: tables are as long as the disk needs, what is new has changed.
sizes() {
	content
	rm -f a
	must qemu-img convert -f raw -O qcow2 -o cluster_size=512 raw a
	must qemu-img bitmap --add -g 512 a on
	must qemu-img bitmap --add -g 512 a off
	must qemu-img bitmap --disable a off
	cp raw model
	for size in 40M 9M 64M; do
		must "$QCOW2_OPS" qcow2:a resize "$(numfmt --from=iec $size)"
		truncate -s $size model
		writes a model ops=3
		[ "$(flags a)" = "$(printf 'on auto\noff')" ] || fail "flags: $(flags a)"
	done
	covers a on raw model
	[ "$(dirty a off | tail -1)" = "$((9 * 1048576)) $((55 * 1048576))" ] ||
		fail "the disabled one: $(dirty a off)"
	must qemu-img bitmap --remove a on
	sound a model
}

# A snapshot that is applied changes everything.
snapshots() {
	content
	rm -f a
	must qemu-img convert -f raw -O qcow2 raw a
	must "$QCOW2_OPS" qcow2:a make one
	must qemu-img bitmap --add a b
	must "$QCOW2_OPS" qcow2:a apply one
	[ "$(dirty a b)" = "0 $((9 * 1048576 + 1536))" ] || fail "$(dirty a b)"
	sound a raw
}

# What is not true says so: after a kill, and when somebody did not keep them.
marked() {
	image a 9M
	must qemu-img bitmap --add a b
	truncate -s 9M model
	"$QCOW2_OPS" qcow2:a die
	[ $? = 137 ] || fail "it lives"
	[ "$(flags a)" = "b auto in-use" ] || fail "after a kill: $(flags a)"
	"$TAP_IMG" info -f qcow2 a | grep -q '^bitmap b: .* enabled, inconsistent$' ||
		fail "info does not say so"
	writes a model ops=50
	[ "$(flags a)" = "b auto in-use" ] || fail "after another use: $(flags a)"
	must qemu-img bitmap --remove a b
	image a 9M
	must qemu-img bitmap --add a b
	printf '\0' | dd of=a bs=1 seek=95 conv=notrunc status=none
	"$TAP_IMG" info -f qcow2 a | grep -q '^bitmaps-are: inconsistent: ' || fail "info"
	rm -f model
	truncate -s 9M model
	timeout 300 "$IMAGE_RANDOM" qcow2:a model ops=100 >out.txt 2>&1 || fail "$(cat out.txt)"
	sound a model leaks
}

# Directories that cannot be: the image is used, and they are given up.
damaged() {
	for damage in 'row = 16, 9' 'row = 17, 200' 'row = 0, 1' 'row = 18, 255' 'ext = 16, 255'; do
		image a 9M
		must qemu-img bitmap --add a b
		python3 - a "$damage" <<'PY'
import sys
with open(sys.argv[1], "r+b") as f:
    head = f.read(4096)
    ext = head.index(bytes.fromhex("23852875")) + 8
    row = int.from_bytes(head[ext + 16:ext + 24], "big")
    name, rest = sys.argv[2].split(" = ")
    at, value = map(int, rest.split(","))
    f.seek((row if name == "row" else ext) + at)
    f.write(bytes([value]))
PY
		rm -f model
		truncate -s 9M model
		timeout 300 "$IMAGE_RANDOM" qcow2:a model ops=100 check=0 >out.txt 2>&1 ||
			fail "$damage: $(cat out.txt)"
		must "$TAP_IMG" compare -q -f qcow2 -F raw a model
	done
}

"$1"
