#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# bad_input.sh CASE: what is wrong with an image or its name is told in one line
# that names the file, with exit code 1; corrupt tables cost the sectors they
# map, and nothing else.
. "$(dirname "$0")/lib.sh"
need python3
make="python3 $here/make_image.py"

images() {
	head -c 3M /dev/urandom >raw
	must $make good.qcow raw
}

bad() { # PATTERN KEY=VALUE...: such an image is refused
	local pattern=$1
	shift
	must $make bad.qcow raw "$@"
	refuses "bad.qcow: $pattern" "$IMAGE_CHECK" bad.qcow
	refuses "bad.qcow: $pattern" "$QCOW2RAW" out bad.qcow
	[ -e out ] && fail "$*: qcow2raw left a file"
	ls -A | grep -q part && fail "$*: qcow2raw left a part"
	:
}

names() {
	images
	refuses 'missing.qcow: .*No such file' "$IMAGE_CHECK" missing.qcow
	refuses 'missing.qcow: .*No such file' "$QCOW2RAW" out missing.qcow
	refuses 'missing: .*No such file' "$IMG2QCOW" out missing
	refuses 'missing: .*No such file' "$QCOW_CREATE" 0 out missing
	mkdir folder
	refuses 'folder: .*irectory' "$IMAGE_CHECK" folder
	refuses 'folder: .*irectory' "$IMG2QCOW" out folder
	refuses 'folder: ' "$QCOW2RAW" folder good.qcow
	refuses 'nowhere.*: No such file' "$QCOW_CREATE" 10 nowhere/out
	refuses 'nowhere.*: No such file' "$QCOW2RAW" nowhere/out good.qcow
	head -c 1000 /dev/urandom >odd
	refuses 'odd: .*512' "$IMG2QCOW" out odd
	: >empty
	refuses 'empty: ' "$IMG2QCOW" out empty
	[ -e out ] && fail "left a file"
	:
}

unreadable() {
	[ "$(id -u)" = 0 ] || skip "not root: cannot become somebody else"
	need setpriv
	images
	chmod 600 good.qcow
	chmod 755 .
	refuses 'good.qcow: .*ermission denied' \
		setpriv --reuid 65534 --regid 65534 --clear-groups "$IMAGE_CHECK" "$PWD/good.qcow"
}

headers() {
	images
	bad 'not a qcow image' set=0:00
	bad 'truncated' cut=0
	bad 'truncated' cut=3
	bad 'truncated' cut=40
	bad 'truncated' cut=56
	bad 'qcow version 2.*qcow2' set=4:00000002
	bad 'qcow version 9' set=4:00000009
	bad 'is encrypted .AES.: say key-file=' set=36:00000001
	bad 'unknown qcow encryption method 7' set=36:00000007
	bad '.*cluster size of 2.8 ' set=32:08
	bad '.*cluster size of 2.17 ' set=32:11
	bad '.*cluster size of 2.255 ' set=32:ff
	bad '.*L2 table size' set=33:05
	bad '.*L2 table size' set=33:0e
	bad '.*disk size 0 ' set=24:0000000000000000
	bad '.*disk size 1000 ' set=24:00000000000003e8
	bad '.*disk size 18446744073709551104 ' set=24:fffffffffffffe00
	bad '.*too large' set=24:7ffffffffffffe00
	bad 'truncated: its qcow L1 table' set=24:0000100000000000
	bad '.*L1 table at 0' set=40:0000000000000000
	bad '.*L1 table at 47' set=40:000000000000002f
	bad 'truncated: its qcow L1 table' set=40:fffffffffffffff8
	bad 'unknown flags 0x84' xen=16be set=60:00000084
}

backing() {
	images
	bad '.*name of 1024 bytes' set=8:000000000000100000000400
	bad '.*name of 0 bytes' set=8:000000000000100000000000
	bad '.*name lies outside' set=8:ffffffffffffff0000000010
	bad '.*name lies outside' set=8:000000000000000800000010
	bad '.*name lies in the L1' set=8:000000000000003000000010
	bad '.*contains a NUL' set=8:000000000000100000000010 set=4096:2f6100
	head -c 3M /dev/zero >base
	bad 'its backing file: .*base: No such file' backing="$PWD/base" xen=16be \
		set=64:2f6e6f6e65
	# a backing file is raw, whatever is in it: never guessed to be an image
	must $make inner.qcow raw
	cp inner.qcow base.q
	truncate -s $(($(stat -c %s inner.qcow) / 512 * 512)) base.q
	must "$QCOW_CREATE" -q 0 over.qcow base.q
	must "$QCOW2RAW" -q flat over.qcow
	cmp flat base.q || fail "the backing file was taken for more than raw bytes"
}

backing-of-another-size() {
	images
	cp raw base
	must "$QCOW_CREATE" -q 0 over.qcow base
	truncate -s 2M base
	refuses "over.qcow: has 3145728 bytes but its backing file .*base has 2097152" \
		"$IMAGE_CHECK" over.qcow
	truncate -s 4M base
	refuses "over.qcow: has 3145728 bytes but its backing file .*base has 4194304" \
		"$QCOW2RAW" out over.qcow
	rm base
	refuses "over.qcow: its backing file: .*base: .*No such file" "$QCOW2RAW" out over.qcow
}

# meant with resized=on: what lies past the backing file's end reads as zeroes
backing-of-another-size-if-meant() {
	images
	cp raw base
	must "$QCOW_CREATE" -q 0 over.qcow base
	truncate -s 2M base
	truncate -s 2M raw
	truncate -s 3M raw
	cp raw model
	timeout 300 "$IMAGE_RANDOM" qcow:over.qcow,resized=on model ops=300 >out.txt 2>&1 ||
		fail "$(cat out.txt)"
	same over.qcow model
}

cycles() {
	head -c 3M /dev/zero >self.qcow
	must $make good.qcow self.qcow backing="$PWD/self.qcow" xen=16be
	cp good.qcow self.qcow
	refuses 'self.qcow: .*(chain|lock|in use|comes back)' "$IMAGE_CHECK" self.qcow
}

# Each wrong entry: an error for the sectors behind it, one line, and no more.
tables() {
	images
	l2=4096 # the first table; its first entry maps the first cluster
	for entry in 0000000000001001 7fffffffffffe000 0000000000000000:8 0000000000000030 \
		     8000000000000000 fff0000000400000 800fffffffffffff; do
		value=${entry%%:*}
		must $make bad.qcow raw set=$l2:$value
		timeout 300 "$IMAGE_CHECK" bad.qcow >out.txt 2>err.txt
		code=$?
		case $value in
		0000000000000000) [ $code = 0 ] || fail "a hole: exit $code" ;;
		*) [ $code = 3 ] || fail "$value: exit $code $(cat out.txt err.txt)"
		   grep -q 'unreadable: 65536' out.txt || fail "$value: $(cat out.txt)"
		   grep -q 'bad.qcow' err.txt || fail "$value: no line names the file"
		   [ "$(wc -l <err.txt)" -le 20 ] || fail "$value: too many lines" ;;
		esac
	done
	for value in 0000000000000030 7fffffffffffe000 0000000000001003 ffffffffffffffff; do
		must $make bad.qcow raw set=48:$value
		timeout 300 "$IMAGE_CHECK" bad.qcow >out.txt 2>err.txt
		[ $? = 3 ] || fail "L1 $value: $(cat out.txt err.txt)"
		grep -q 'unreadable: 2097152' out.txt || fail "L1 $value: $(cat out.txt)"
	done
	# a cluster, and a table, in the L1 table
	must $make bad.qcow raw xen=16be set=8192:0000000000001000
	timeout 300 "$IMAGE_CHECK" bad.qcow >out.txt 2>err.txt
	[ $? = 3 ] || fail "a cluster in L1: $(cat out.txt)"
	grep -q 'unreadable: 65536' out.txt || fail "a cluster in L1 is read: $(cat out.txt)"
	must $make bad.qcow raw xen=16be set=4096:0000000000001000
	timeout 300 "$IMAGE_CHECK" bad.qcow >out.txt 2>err.txt
	[ $? = 3 ] || fail "a table in L1: $(cat out.txt)"
	grep -q 'unreadable: 2097152' out.txt || fail "a table in L1 is read: $(cat out.txt)"
	# two owners of one cluster
	must $make bad.qcow raw set=$((l2 + 8)):0000000000002000
	timeout 300 "$IMAGE_CHECK" bad.qcow >out.txt 2>err.txt
	[ $? = 3 ] && grep -q 'belongs to something else too' out.txt || fail "$(cat out.txt)"
	# compressed data that are none
	yes text | head -c 3M >raw
	must $make bad.qcow raw packed=1 set=8200:ffffffffffff
	timeout 300 "$IMAGE_CHECK" bad.qcow >out.txt 2>err.txt
	[ $? = 4 ] || fail "broken deflate data: $(cat out.txt err.txt)"
}

# An image is only bytes: any of them may be wrong.
mutants() {
	seed=${TEST_SEED:-$((RANDOM * 32768 + RANDOM))}
	echo "seed $seed: TEST_SEED=$seed repeats this"
	{ yes text | head -c 8K; head -c 8K /dev/urandom; } >raw
	truncate -s 2M raw
	must $make one.qcow raw packed=1 cluster_bits=12
	must $make two.qcow raw cluster_bits=9 l2_bits=6
	must $make three.qcow raw xen=16le l1=le premapped=1
	must $make four.qcow raw cluster_bits=16 packed=1
	timeout 300 "$FUZZ_MUTATE" qcow runs="${ROUNDS:-400}" seed="$seed" raw=1 ./*.qcow >out.txt 2>&1 ||
		fail "exit $?: $(tail -20 out.txt)"
}

"$1"
