#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# random.sh CASE: random requests against a model, on images of many kinds, then
# qemu-img must read the same and find nothing to complain of.
. "$(dirname "$0")/lib.sh"
need qemu-img

ours() { # SEED
	for cluster in 512 4K 64K; do
		rm -f a model
		must "$QCOW_CREATE" -q -f qcow2 -c $cluster 5001K a
		truncate -s 5001K model
		writes a model seed="$1"
		writes a model seed="$1" align=4096 engine=libaio
	done
}

versions() {
	for version in 1.1 0.10; do
		for cluster in 512 64K 2M; do
			image a 9M -o compat=$version,cluster_size=$cluster
			rm -f model
			truncate -s 9M model
			writes a model seed="$1"
		done
	done
}

overlay() {
	content
	for version in 1.1 0.10; do
		for cluster in 512 64K; do
			image a 11M -b raw -F raw -o compat=$version,cluster_size=$cluster
			cp raw model
			truncate -s 11M model
			writes a model seed="$1"
			writes a model seed="$1" align=4096 engine=libaio
		done
	done
}

chain() {
	content
	image one 10M -b raw -F raw
	cp raw model
	truncate -s 10M model
	writes one model seed="$1"
	must "$QCOW_CREATE" -q -f qcow2 -b qcow2 0 two one
	writes two model seed="$1"
	image three 10M -b two -F qcow2 -o cluster_size=512
	writes three model seed="$1"
}

# What is free is used again: the file does not grow for ever.
reuse() {
	rm -f a model
	must "$QCOW_CREATE" -q -f qcow2 20M a
	truncate -s 20M model
	for n in 1 2 3 4 5 6 7 8; do
		must qemu-io -f qcow2 -c 'discard 0 20M' a
		truncate -s 0 model
		truncate -s 20M model
		writes a model seed="$1$n" ops=600
	done
	[ "$(stat -c %s a)" -lt $((64 * 1048576)) ] || fail "the file has $(stat -c %s a) bytes"
}

refcounts() {
	for bits in 1 2 4 8 16 32 64; do
		image a 9M -o cluster_size=512,refcount_bits=$bits
		rm -f model
		truncate -s 9M model
		writes a model seed="$1"
	done
}

compressed() {
	content
	for type in zlib zstd; do
		for cluster in 4K 64K; do
			rm -f a
			cp raw model
			must qemu-img convert -c -f raw -O qcow2 \
				-o compression_type=$type,cluster_size=$cluster raw a
			writes a model seed="$1"
		done
	done
}

subclusters() {
	content
	for cluster in 16K 64K 2M; do
		image a 9M -o extended_l2=on,cluster_size=$cluster
		rm -f model
		truncate -s 9M model
		writes a model seed="$1"
		image a 11M -b raw -F raw -o extended_l2=on,cluster_size=$cluster
		cp raw model
		truncate -s 11M model
		writes a model seed="$1"
		writes a model seed="$1" align=4096 engine=libaio
	done
	rm -f a
	cp raw model
	must qemu-img convert -c -f raw -O qcow2 -o extended_l2=on raw a
	writes a model seed="$1"
	must qemu-img snapshot -c one a
	cp model model-one
	writes a model seed="$1" ops=200
	must qemu-img convert -l snapshot.name=one -f qcow2 -O raw a got
	cmp got model-one || fail "a snapshot was changed"
	must qemu-img snapshot -a one a
	writes a model-one seed="$1" ops=200
	image a 11M -b raw -F raw -o extended_l2=on,cluster_size=64K
	cp raw model
	truncate -s 11M model
	writes a model seed="$1" ops=300
	must "$QCOW2_OPS" qcow2:a make one
	cp model model-one
	writes a model seed="$1" ops=300
	must qemu-img convert -l snapshot.name=one -f qcow2 -O raw a got
	cmp got model-one || fail "a snapshot was changed"
	must "$QCOW2_OPS" qcow2:a delete one
	writes a model seed="$1" ops=100
}

data-file() {
	content
	for option in cluster_size=64K cluster_size=4K data_file_raw=on; do
		rm -f ext.raw
		image a 9M -o data_file=ext.raw,$option
		rm -f model
		truncate -s 9M model
		options=,data-file=on writes a model seed="$1"
		options=,data-file=$work/ext.raw writes a model seed="$1" align=4096
	done
	rm -f ext.raw
	image a 11M -b raw -F raw -o data_file=ext.raw
	cp raw model
	truncate -s 11M model
	options=,data-file=on writes a model seed="$1"
}

snapshots() {
	content
	rm -f a
	cp raw model
	must qemu-img convert -f raw -O qcow2 -o cluster_size=4K raw a
	must qemu-img snapshot -c one a
	writes a model seed="$1"
	cp model model-two
	must qemu-img snapshot -c two a
	writes a model seed="$1"
	must qemu-img convert -l snapshot.name=one -f qcow2 -O raw a got
	cmp got raw || fail "a snapshot was changed"
	must qemu-img convert -l snapshot.name=two -f qcow2 -O raw a got
	cmp got model-two || fail "a snapshot was changed"
	must qemu-img snapshot -d one a
	writes a model seed="$1"
	must qemu-img snapshot -a two a
	writes a model-two seed="$1"
}

with_seed "$1"
