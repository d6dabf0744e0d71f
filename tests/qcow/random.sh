#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# random.sh CASE: random requests against a model, on images of many kinds; then
# qemu-img must read the same. Each case runs once with a fixed seed and once
# with a new one, which is printed: TEST_SEED=n repeats it.
. "$(dirname "$0")/lib.sh"
need qemu-img

run() { # IMAGE MODEL KEY=VALUE...
	timeout 300 "$IMAGE_RANDOM" "qcow:$1" "$2" "${@:3}" >out.txt 2>&1 ||
		fail "$* on $1: $(cat out.txt)"
	cat out.txt
	same "$1" "$2"
}

raw() { # NAME SIZE: random bytes
	head -c "$2" /dev/urandom >"$1"
}

standalone() { # SEED
	for cluster in 512 4K 64K; do
		rm -f a.qcow model
		must "$QCOW_CREATE" -q -c $cluster 5001K a.qcow
		truncate -s 5001K model
		run a.qcow model seed="$1"
		run a.qcow model seed="$1" align=4096 engine=libaio
	done
}

overlay() {
	raw base $((5 * 1048576 + 1536))
	md5sum base >sum
	for cluster in 512 4K 64K; do
		rm -f a.qcow
		cp base model
		must "$QCOW_CREATE" -q -c $cluster 0 a.qcow base
		run a.qcow model seed="$1"
		run a.qcow model seed="$1" align=4096 engine=libaio
		must md5sum -c --quiet sum
	done
}

qemu-made() {
	{ head -c 3M /dev/zero; head -c 3M /dev/urandom; yes abcdefg | head -c 3M; } >model
	rm -f a.qcow
	# 7.2 writes the image whole, then ends with 1 and no word
	qemu-img convert -c -f raw -O qcow model a.qcow
	same a.qcow model
	run a.qcow model seed="$1"
	rm -f a.qcow model
	must qemu-img create -q -f qcow a.qcow 9M
	truncate -s 9M model
	run a.qcow model seed="$1"
	raw base 6M
	cp base model
	rm -f a.qcow
	must qemu-img create -q -f qcow -b base -F raw a.qcow
	run a.qcow model seed="$1"
}

for seed in 1 "${TEST_SEED:-$((RANDOM * 32768 + RANDOM))}"; do
	"$1" "$seed"
done
