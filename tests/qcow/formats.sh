#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# formats.sh CASE: images that others made, or could have made, are read right
# and can be written; what we make, others read.
. "$(dirname "$0")/lib.sh"
need qemu-img python3
make="python3 $here/make_image.py"

content() { # 6 MiB and a bit: zeroes, noise, text; a last cluster that is cut
	{ head -c 2M /dev/zero; head -c 1M /dev/urandom; yes some text | head -c 2M
	  head -c 600K /dev/zero; head -c 465K /dev/urandom; } >raw
}

# reads IMAGE: as raw; by the tool, and in the test's own walk
reads() {
	rm -f got
	must "$QCOW2RAW" -q got "$1"
	cmp got raw || fail "$1 is read wrong"
	must "$IMAGE_CHECK" "$1"
	cp out.txt checked
}

writes() { # IMAGE: takes any writes and stays whole
	cp raw model
	timeout 300 "$IMAGE_RANDOM" "qcow:$1" model seed=7 ops=600 >out.txt 2>&1 ||
		fail "$1: $(cat out.txt)"
	[ "${2:-}" = odd ] || same "$1" model
}

geometries() {
	content
	for cluster in 9 13 16; do
		for l2 in 6 9 13; do
			must $make a.qcow raw cluster_bits=$cluster l2_bits=$l2
			reads a.qcow
			writes a.qcow
		done
	done
}

compressed() {
	content
	for cluster in 9 12 16; do
		must $make a.qcow raw cluster_bits=$cluster packed=1
		reads a.qcow
		grep -q '^compressed: [1-9]' checked || fail "nothing was compressed"
		writes a.qcow
	done
}

compressed-overlay() {
	content
	cp raw base
	yes other text | head -c 1M | dd of=raw conv=notrunc bs=64K seek=20 status=none
	must $make a.qcow raw backing="$PWD/base" packed=1
	reads a.qcow
	writes a.qcow
}

blktap-2006() {
	content
	for kind in "xen=12 l1=le" "xen=16le l1=le" "xen=16 l1=le" "xen=16 l1=be" "xen=16be"; do
		must $make a.qcow raw premapped=1 $kind
		reads a.qcow
		case $kind in
		*l1=le) grep -q 'blktap-2006: .*little-endian' checked || fail "$kind: not told" ;;
		*) grep -q 'blktap-2006: .*big-endian' checked || fail "$kind: not told" ;;
		esac
		case $kind in *l1=le) writes a.qcow odd ;; *) writes a.qcow ;; esac
		cp model raw
		reads a.qcow
		content
	done
}

blktap-2006-overlay() {
	content
	cp raw base
	head -c 1M /dev/urandom | dd of=raw conv=notrunc bs=1M seek=3 status=none
	for kind in "xen=12 l1=le" "xen=16le l1=le" "xen=16be"; do
		cp raw raw.kept
		must $make a.qcow raw backing="$PWD/base" cluster_bits=9 l2_bits=12 $kind
		reads a.qcow
		writes a.qcow odd
		cp model raw
		reads a.qcow
		mv raw.kept raw
	done
}

# An entry that is right in either byte order: 16 MiB and 4 GiB, both in the file
blktap-2006-ambiguous() {
	head -c 4096 /dev/zero >raw
	must $make a.qcow raw xen=16le set=4096:0000000001000000
	truncate -s 5G a.qcow
	refuses 'a.qcow: cannot tell the byte order' "$IMAGE_CHECK" a.qcow
	must $make a.qcow raw xen=16le set=4096:0000000101000000
	refuses 'a.qcow: cannot tell the byte order' "$IMAGE_CHECK" a.qcow
}

ours-by-qemu-img() {
	content
	must "$IMG2QCOW" -q a.qcow raw
	same a.qcow raw
	must qemu-img info -f qcow a.qcow
	must "$QCOW_CREATE" -q 0 o.qcow raw
	same o.qcow raw
	must qemu-img info o.qcow
	grep -q "backing file: $PWD/raw" out.txt || fail "qemu-img sees no backing file"
	cp raw model
	cp raw raw.kept
	timeout 300 "$IMAGE_RANDOM" qcow:o.qcow model ops=500 >/dev/null || fail "writing"
	same o.qcow model
	cmp raw raw.kept || fail "the backing file was changed"
	# and what qemu-img puts on top of our clusters, we read
	must qemu-img convert -n -f raw -O qcow raw.kept o.qcow
	cp raw.kept raw
	reads o.qcow
}

# What we compress others read, and it can be written as any other image.
ours-compressed() {
	[ -n "${TAP_IMG:-}" ] || skip "no tap-img"
	content
	for cluster in 4K 64K 512; do
		[ $cluster != 512 ] || truncate -s 200K raw
		rm -f a.qcow
		must "$TAP_IMG" convert -q -c -f raw -O qcow -o cluster_size=$cluster raw a.qcow
		same a.qcow raw
		must "$IMAGE_CHECK" a.qcow
		grep -q '^corruptions: 0' out.txt || fail "$(cat out.txt)"
		if [ $cluster = 512 ]; then # less than a sector does not help
			grep -q '^compressed: 0' out.txt || fail "$(cat out.txt)"
		else
			grep -q '^compressed: [1-9]' out.txt || fail "$(cat out.txt)"
			# the noise, the text in next to no space, tables
			[ "$(stat -c %b a.qcow)" -lt 4600 ] || fail "$(stat -c %b a.qcow) blocks"
			writes a.qcow
		fi
	done
}

# theirs IMAGE MODEL: qemu-img decrypts it to that
theirs() {
	must qemu-img compare -q --object secret,id=s,file=key --image-opts \
		"driver=qcow,file.filename=$1,encrypt.key-secret=s" driver=raw,file.filename="$2"
}

encrypted() {
	[ -n "${TAP_IMG:-}" ] || skip "no tap-img"
	content
	printf secret >key
	printf 'not the secret one' >other
	chmod 600 key other
	aes="encryption=aes,weak=on"
	"$TAP_IMG" create -q -f qcow -o $aes a.qcow 5001K
	"$TAP_IMG" compare qcow:a.qcow,key-file=key qcow:a.qcow,key-file=key >out.txt 2>&1
	grep -q 'built without' out.txt && skip "no libcrypto"
	grep -q 'its encryption is weak' out.txt || fail "no warning: $(cat out.txt)"
	truncate -s 5001K model
	for cluster in 512 4K; do
		must "$TAP_IMG" create -q --force -f qcow -o $aes,cluster_size=$cluster a.qcow 5001K
		rm model
		truncate -s 5001K model
		timeout 300 "$IMAGE_RANDOM" qcow:a.qcow,key-file=key model seed=3 ops=400 >out.txt 2>&1 ||
			fail "$cluster: $(cat out.txt)"
		theirs a.qcow model
		must "$TAP_IMG" create -q --force -f qcow -b raw -F raw -o $aes,cluster_size=$cluster \
			o.qcow
		cp raw model
		timeout 300 "$IMAGE_RANDOM" qcow:o.qcow,key-file=key model seed=3 ops=400 >out.txt 2>&1 ||
			fail "overlay, $cluster: $(cat out.txt)"
		theirs o.qcow model
	done
	must "$TAP_IMG" convert -q --force -f raw -O qcow -o $aes,key-file=key raw a.qcow
	theirs a.qcow raw
	cp raw model
	for size in 9M 3001K 5M; do
		must "$TAP_IMG" resize -q --shrink qcow:a.qcow,key-file=key $size
		truncate -s $size model
		theirs a.qcow model
	done
	rm a.qcow
	must qemu-img create -q -f qcow --object secret,id=s,file=key \
		-o encrypt.format=aes,encrypt.key-secret=s a.qcow 9M
	truncate -s 0 model
	truncate -s 9M model
	timeout 300 "$IMAGE_RANDOM" qcow:a.qcow,key-file=key model seed=4 ops=400 >out.txt 2>&1 ||
		fail "qemu's: $(cat out.txt)"
	theirs a.qcow model
	grep -qa 'not the secret' a.qcow && fail "the key is in the image"
	must "$TAP_IMG" check -q qcow:a.qcow
	"$TAP_IMG" info qcow:a.qcow >out.txt || fail "info without a key"
	grep -q '^encryption: aes, old and weak' out.txt || fail "$(cat out.txt)"
	refuses 'a.qcow: is encrypted .AES.: say key-file=' "$QCOW2RAW" out a.qcow
	refuses 'weak: use qcow2' "$TAP_IMG" create -f qcow -o encryption=aes b 5M
	refuses 'can be aes, not luks' "$TAP_IMG" create -f qcow -o encryption=luks b 5M
	refuses 'cannot be reserved' "$TAP_IMG" create -f qcow -o $aes,preallocation=falloc b 5M
	"$TAP_IMG" convert -q -c -f raw -O qcow -o $aes,key-file=key raw b >out.txt 2>&1 &&
		fail "compressed and encrypted"
	grep -q 'does not write compressed' out.txt || fail "$(cat out.txt)"
}

# Room on a device begins behind the image, and holds what somebody left.
device() {
	[ "$(id -u)" = 0 ] || skip "not root: no loop devices"
	need losetup
	content
	for kind in cluster_bits=12 "cluster_bits=9 packed=1"; do
		must $make a.qcow raw $kind
		cp raw model
		{ cat a.qcow; head -c 20M /dev/urandom; } >disk
		dev=$(losetup -f --show disk 2>/dev/null) || skip "no loop devices"
		cleanup() { losetup -d "$dev" 2>/dev/null; }
		must "$QCOW2RAW" -q -f got "$dev"
		cmp got raw || fail "$kind is read wrong"
		timeout 300 "$IMAGE_RANDOM" "qcow:$dev" model seed=9 ops=600 >out.txt 2>&1 ||
			fail "$kind: $(cat out.txt)"
		same "$dev" model
		losetup -d "$dev"
	done
	# no room at all: what is there can be written, and nothing else
	head -c 4M /dev/zero >raw
	head -c 64K /dev/urandom | dd of=raw bs=64K seek=3 conv=notrunc status=none
	must $make a.qcow raw
	cp raw model
	cp a.qcow disk
	dev=$(losetup -f --show disk)
	timeout 300 "$IMAGE_RANDOM" "qcow:$dev" model seed=5 ops=200 full=1 reopen=0 >out.txt 2>&1 ||
		fail "$(cat out.txt)"
	grep -q 'failed for want of space: [1-9]' out.txt || fail "it was never full"
	same "$dev" model
}

resized() {
	[ -n "${TAP_IMG:-}" ] || skip "no tap-img"
	content
	for kind in cluster_bits=9 "xen=16le l1=le premapped=1"; do
		cp raw model
		must $make a.qcow raw $kind
		# into its last cluster and table; L1 becomes longer; smaller; larger again
		for size in 7M 60M 3000K 20M; do
			must "$TAP_IMG" resize -q --shrink -f qcow a.qcow $size
			truncate -s $size model
			must "$QCOW2RAW" -q -f got a.qcow
			cmp got model || fail "$kind: $size is read wrong"
			timeout 300 "$IMAGE_RANDOM" qcow:a.qcow model seed=8 ops=100 >out.txt 2>&1 ||
				fail "$kind, $size: $(cat out.txt)"
			must "$IMAGE_CHECK" a.qcow
			case $kind in *l1=le*) ;; *) same a.qcow model ;; esac
		done
	done
}

resized-overlay() {
	[ -n "${TAP_IMG:-}" ] || skip "no tap-img"
	content
	cp raw base
	must "$QCOW_CREATE" -q 0 a.qcow base
	cp base model
	refuses 'size of its backing file' "$TAP_IMG" resize -q -f qcow a.qcow 9M
	must "$TAP_IMG" resize -q qcow:a.qcow,resized=on 9M
	truncate -s 9M model
	same a.qcow model
	must "$TAP_IMG" resize -q --shrink qcow:a.qcow,resized=on 4M
	truncate -s 4M model
	same a.qcow model
	refuses 'would be seen' "$TAP_IMG" resize -q qcow:a.qcow,resized=on 9M
	same a.qcow model
	refuses 'too large for qcow' "$TAP_IMG" resize -q qcow:a.qcow,resized=on 100000T
	must $make b.qcow raw packed=1 cluster_bits=16
	must "$TAP_IMG" resize -q --shrink -f qcow b.qcow 4000K
	refuses 'compressed' "$TAP_IMG" resize -q -f qcow b.qcow 9M
}

ours-by-libqcow() {
	need qcowinfo qcowmount
	[ -c /dev/fuse ] || skip "no /dev/fuse"
	content
	truncate -s 6M raw
	must "$IMG2QCOW" -q a.qcow raw
	must qcowinfo a.qcow
	grep -q '6.0 MiB (6291456 bytes)' out.txt || fail "qcowinfo: $(cat out.txt)"
	mkdir mnt
	qcowmount a.qcow mnt >out.txt 2>&1 || skip "qcowmount: $(tail -1 out.txt)"
	cleanup() { umount "$work/mnt" 2>/dev/null || fusermount -u "$work/mnt"; }
	cmp mnt/qcow1 raw || fail "libqcow reads something else"
}

"$1"
