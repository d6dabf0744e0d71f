#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# create.sh CASE: new images of every kind, as others see them.
. "$(dirname "$0")/lib.sh"
need qemu-img qemu-io python3

make_image() { # NAME OPTIONS SIZE
	rm -f "$1" model
	must "$TAP_IMG" create -q -f qcow2 -o "$2" "$1" "$3"
	truncate -s "$3" model
}

told() { # IMAGE KEY VALUE: what qemu-img says of it
	qemu-img info --output=json "$1" | python3 -c 'import json, sys
print(json.load(sys.stdin)["format-specific"]["data"][sys.argv[1]])' "$2" >out.txt
	[ "$(cat out.txt)" = "$3" ] || fail "$1: $2 is $(cat out.txt), not $3"
}

kinds() {
	make_image a extended_l2=on,cluster_size=16K 9M
	told a extended-l2 True
	writes a model ops=300
	make_image a extended_l2=on,preallocation=metadata 9M
	writes a model ops=100
	for bits in 1 2 4 8 32 64; do
		make_image a refcount_bits=$bits,cluster_size=512 9M
		told a refcount-bits $bits
		writes a model ops=50
		make_image a refcount_bits=$bits,preallocation=metadata 11M
		sound a model
	done
	make_image a compat=0.10,cluster_size=4K 9M
	told a compat 0.10
	writes a model ops=50
	must "$TAP_IMG" snapshot -q -c one -f qcow2 a
	make_image a compat=v2,preallocation=metadata 9M
	writes a model ops=50
	for bad in compat=0.9 compat=0.10,extended_l2=on compat=0.10,refcount_bits=8 \
			refcount_bits=3 refcount_bits=128; do
		refuses '^tap-img create: b: ' "$TAP_IMG" create -f qcow2 -o "$bad" b 1M
	done
	make_image a lazy_refcounts=on 9M
	told a lazy-refcounts True
	writes a model ops=50
	make_image a compression_type=zstd 9M
	told a compression-type zstd
	sound a model
	content
	must "$TAP_IMG" convert -q -c -f raw -O qcow2 -o compression_type=zstd,cluster_size=4K raw b
	told b compression-type zstd
	sound b raw
	must "$TAP_IMG" convert -q -f raw -O qcow2 -o extended_l2=on,cluster_size=2M raw c
	sound c raw
	must "$TAP_IMG" create -q -f qcow2 -o extended_l2=on -b raw -F raw d
	cp raw model
	writes d model ops=300
	# smaller and larger again: data behind a hole that ends within a cluster
	make_image e extended_l2=on 1M
	must qemu-io -f qcow2 -c 'write -P 7 672k 4k' e
	must "$TAP_IMG" resize -q --shrink qcow2:e 512K
	must "$TAP_IMG" resize -q qcow2:e 1M
	sound e model
}

# With data_file_raw that is the disk, whatever is done.
data-file() {
	mkdir folder # others look for it from where they are
	cd folder
	for option in cluster_size=4K cluster_size=512,data_file_raw=on; do
		rm -f ext.raw
		make_image a "data_file=ext.raw,$option" 9M
		told a data-file-raw "$([[ $option = *raw=on ]] && echo True || echo False)"
		sound a model
		options=,data-file=on writes a model ops=300
		if [[ $option = *raw=on ]]; then
			cmp ext.raw model || fail "$option: the data file is not the disk"
			told a data-file-raw True
			for size in 5M 12M; do
				must "$TAP_IMG" resize -q --shrink qcow2:a,data-file=on $size
				truncate -s $size model
				cmp ext.raw model || fail "$size: the data file is not the disk"
				options=,data-file=on writes a model ops=50
				cmp ext.raw model || fail "$size: ... when it was written"
			done
		fi
	done
	cd ..
	refuses "ext.raw: File exists" "$TAP_IMG" create -f qcow2 -o data_file=ext.raw folder/b 9M
	[ ! -e folder/b ] || fail "a failed create left an image"
	must "$TAP_IMG" convert -f raw -O qcow2 -o data_file=copy.raw folder/model folder/d
	must "$TAP_IMG" compare -q raw:folder/model qcow2:folder/d,data-file=on
	refuses 'does not write compressed' "$TAP_IMG" convert -c -f raw -O qcow2 -o data_file=left.raw \
		folder/model e
	[ ! -e left.raw ] || fail "a failed convert left its data file"
	make_image c data_file="$work/other.raw",preallocation=full 3M
	[ "$(du -k "$work/other.raw" | cut -f1)" -ge 3072 ] || fail "no space was taken"
	options=,data-file=on writes c model ops=100
}

# Every cluster has its place, and the file no space for it.
places() {
	for option in cluster_size=64K cluster_size=512 cluster_size=64K,extended_l2=on; do
		make_image a "preallocation=metadata,$option" 9M
		sound a model
		[ "$(stat -c %s a)" -ge $((9 * 1048576)) ] || fail "$option: it has no places"
		[ "$(du -k a | cut -f1)" -lt 2048 ] || fail "$option: it takes $(du -k a)"
		must "$QCOW2_OPS" qcow2:a check
		before=$(stat -c %s a)
		writes a model ops=200
		[ "$(stat -c %s a)" -le $((before + 262144)) ] || fail "$option: it has grown"
	done
	make_image a preallocation=full 9M
	[ "$(du -k a | cut -f1)" -ge 9216 ] || fail "full takes $(du -k a)"
	sound a model
	must "$TAP_IMG" create -q -f qcow2 -o preallocation=metadata big 1T
	[ "$(du -m big | cut -f1)" -lt 400 ] || fail "1 TiB takes $(du -m big)"
	must qemu-io -r -f qcow2 -c "read -P 0 1023G 1M" big
}

refused() {
	refuses '16K at least' "$TAP_IMG" create -f qcow2 -o extended_l2=on,cluster_size=8K a 9M
	refuses 'compression_type can be' "$TAP_IMG" create -f qcow2 -o compression_type=lz4 a 9M
	refuses 'data_file_raw needs' "$TAP_IMG" create -f qcow2 -o data_file_raw=on a 9M
	truncate -s 1M base
	refuses 'cannot take all space' "$TAP_IMG" create -f qcow2 -o preallocation=metadata \
		-b base -F raw a 9M
	refuses 'preallocation=metadata: can' "$TAP_IMG" create -f raw -o preallocation=metadata a 9M
	[ -z "$(ls)" ] || [ "$(ls)" = "$(printf 'base\nerr.txt\nout.txt')" ] || fail "left: $(ls)"
}

"$1"
