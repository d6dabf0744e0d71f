# SPDX-License-Identifier: LGPL-2.1-or-later
# Shared by the tests of image formats. A format's own lib.sh says what it is called:
#   driver=  by us      qemu=  by QEMU
# and has sound(), which every image must be after it was written. The environment names
# the programs under test: QCOW_CREATE, IMG2QCOW, QCOW2RAW, IMAGE_RANDOM, IMAGE_CHECK, TAP_IMG.
set -u
here=$(cd "$(dirname "$0")" && pwd)
images=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/blktap-images.XXXXXX")
cleanup() { :; }
trap '(cleanup); rm -rf "$work"' EXIT
cd "$work" || exit 99
export BLKTAP_SURVIVOR_DIR=$work/memory PYTHONDONTWRITEBYTECODE=1

fail() {
	echo "FAILED: $*" >&2
	exit 1
}

skip() {
	echo "skipped: $*" >&2
	exit 77
}

need() {
	local program
	for program; do
		command -v "$program" >/dev/null || skip "$program is not installed"
	done
}

[ -z "${TEST_SEED:-}" ] || RANDOM=$TEST_SEED

# with_seed CASE: a new seed, which is printed; TEST_SEED=n repeats it
with_seed() {
	seed=${TEST_SEED:-$((RANDOM * 32768 + RANDOM))}
	RANDOM=$((seed % 32768))
	echo "seed=$seed"
	"$1" "$seed"
}

# must COMMAND...: it succeeds; its output is shown if not
must() {
	local code=0
	"$@" >out.txt 2>&1 || code=$?
	((code == 0)) || {
		cat out.txt >&2
		fail "$* (exit $code)"
	}
}

# refuses PATTERN COMMAND...: it fails with 1 and one line that matches
refuses() {
	local pattern=$1 code
	shift
	"$@" >out.txt 2>err.txt </dev/null
	code=$?
	[ $code = 1 ] || fail "$*: exit $code, not 1: $(cat err.txt)"
	[ "$(wc -l <err.txt)" = 1 ] || fail "$*: not one line: $(cat err.txt)"
	grep -Eq -- "$pattern" err.txt || fail "$*: says '$(cat err.txt)', not '$pattern'"
}

# ---- content --------------------------------------------------------------------------

content() { # raw: 9 MiB and a bit: zeroes, noise, text; a last cluster that is cut
	{ head -c 3M /dev/zero; head -c 3M /dev/urandom; yes some text | head -c 3M
	  head -c 1536 /dev/urandom; } >raw
}

model() { # SIZE
	rm -f model
	truncate -s "$1" model
}

# fresh SIZE OPTION...: a new image a, and its model
fresh() {
	rm -f a
	must "$QCOW_CREATE" -q -f "$driver" "${@:2}" "$1" a
	model "$1"
}

# good SIZE OPTION...: an image with something in it, which model and start have too
good() {
	rm -f good
	must "$QCOW_CREATE" -q -f "$driver" "${@:2}" "$1" good
	model "$1"
	writes good model seed=7 ops=100
	cp model start
}

# poke FILE AT HEX: bytes of it
poke() {
	# shellcheck disable=SC2059 # the bytes are the format
	printf "$(sed 's/../\\x&/g' <<<"$3")" |
		dd of="$1" bs=1 seek=$(($2)) conv=notrunc status=none
}

peek() { # FILE AT LENGTH
	od -An -tx1 -j "$2" -N "$3" "$1" | tr -d ' \n'
}

# edit IMAGE COMMAND...: its parts are changed, and sealed anew (the format's edit.py says how)
edit() {
	must python3 "$here/edit.py" "$@"
}

# ---- writing --------------------------------------------------------------------------

# requests IMAGE MODEL KEY=VALUE...: random ones of ours
requests() {
	timeout 300 "$IMAGE_RANDOM" "$driver:$1${options:-}" "$2" "${@:3}" >out.txt 2>&1 ||
		fail "${*:3} on $1: $(cat out.txt)"
	[ -z "$(ls "$BLKTAP_SURVIVOR_DIR" 2>/dev/null)" ] || fail "survivor memory was left"
}

# writes IMAGE MODEL KEY=VALUE...: the same; then the image is sound
writes() {
	requests "$@"
	sound "${1%%,*}" "$2"
}

# harmless IMAGE N OPS: the nth one with damage is checked and written: errors, no harm
harmless() {
	local code
	cp "$1" before
	timeout 300 "$IMAGE_CHECK" "$driver:$1" >out.txt 2>&1
	code=$?
	[ $code -lt 5 ] || fail "mutant $2: exit $code: $(tail -3 out.txt)"
	cmp -s "$1" before || fail "mutant $2: a reader has changed it"
	timeout 300 "$IMAGE_RANDOM" "$driver:$1" model full=1 check=0 ops="$3" seed="$2" >out.txt 2>&1
	code=$?
	[ $code -lt 5 ] || fail "mutant $2 written: exit $code: $(tail -3 out.txt)"
	rm -rf "$BLKTAP_SURVIVOR_DIR"
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
	qemu-io -f "$qemu" "$1" <commands.txt >out.txt 2>&1 ||
		fail "qemu-io on $1: $(tail -3 out.txt)"
	qemu-io -f raw "$2" <commands.txt >out.txt 2>&1 || fail "qemu-io on $2: $(tail -3 out.txt)"
}

# held FORMAT IMAGE: by qemu-io, which says that it has it; who looked for its lock meanwhile
# might be the one that it finds. let_go ends that.
held() {
	need qemu-io stdbuf
	stdbuf -o0 qemu-io -f "$1" -c length -c 'sleep 60000' "$2" >holder.txt 2>&1 &
	holder=$!
	cleanup() { kill $holder 2>/dev/null; }
	for _ in $(seq 1000); do
		[ ! -s holder.txt ] || return 0
		sleep 0.1
	done
	fail "qemu-io does not open $2"
}

let_go() {
	kill $holder
	wait $holder 2>/dev/null
	cleanup() { :; }
}

# ---- what others see ------------------------------------------------------------------

# same IMAGE RAW: qemu-img sees in the image what the raw file holds
same() {
	must qemu-img compare -q -f "$qemu" -F raw "$1" "$2"
}

# checked IMAGE: our check finds nothing, neither corruption nor leaks
checked() {
	must "$IMAGE_CHECK" "$driver:$1"
	grep -qx 'corruptions: 0' out.txt && grep -qx 'leaks: 0' out.txt ||
		fail "check of $1: $(cat out.txt)"
}

# libvhdi IMAGE MODEL [PARENT]: libvhdi, where it is, reads the same in a VHD or VHDX
libvhdi() {
	/usr/bin/python3 -c 'import pyvhdi' 2>/dev/null || return 0
	must /usr/bin/python3 "$images/libvhdi.py" "$driver" "$@"
}

same_file() { # FILE SUM: not one byte of it has changed
	[ "$(sha256sum <"$1")" = "$2" ] || fail "$1 was changed"
}
