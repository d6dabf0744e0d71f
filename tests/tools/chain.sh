#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# chain.sh CASE: commit, rebase and snapshots.
. "$(dirname "$0")/lib.sh"
need qemu-img qemu-io python3

# chain: base, mid over it, top over that, all of other cluster sizes; model is what
# top reads as
chain() {
	content model
	must qemu-img convert -f raw -O qcow2 -o cluster_size=16K model base
	must "$img" create -f qcow2 -b base -F qcow2 -o cluster_size=64K mid
	must "$img" create -f qcow2 -b mid -F qcow2 -o cluster_size=4K top
	write mid 1M 300K 1
	cp model mid-model
	write top 1100K 12K 2
	write top 5M 1M 3
	must qemu-io -f qcow2 -c 'write -z 512K 256K' top
	python3 -c 'f = open("model", "r+b"); f.seek(512 << 10); f.write(bytes(256 << 10))'
	equal qcow2 top model
}

bytes() {
	numfmt --from=iec "$1"
}

write() { # IMAGE AT LEN PATTERN: in the image, and the model
	must qemu-io -f qcow2 -c "write -P $4 $2 $3" "$1"
	python3 -c "f = open('model', 'r+b'); f.seek($(bytes "$2")); f.write(bytes([$4]) * $(bytes "$3"))"
}

commit() {
	chain
	cp base base.kept
	must "$img" commit -f qcow2 top
	grep -q "Committed to $work/mid" out.txt || fail "$(cat out.txt)"
	equal qcow2 mid model
	equal qcow2 top model
	must qemu-img check -q mid
	cmp base base.kept || fail "the base was changed"
	# into a smaller one, that grows
	must "$img" create -f qcow2 -b mid -F qcow2 big 20M
	truncate -s 20M model
	must qemu-io -f qcow2 -c 'write -P 7 19M 64K' big
	python3 -c 'f = open("model", "r+b"); f.seek(19 << 20); f.write(bytes([7]) * 65536)'
	must "$img" commit -q -f qcow2 big
	equal qcow2 mid model
	refuses 'base: no image lies below' "$img" commit -f qcow2 base
	refuses 'top: model does not lie below' "$img" commit -f qcow2 -b model top
}

commit-to-an-ancestor() {
	chain
	cp mid mid.kept
	must "$img" commit --json -f qcow2 -b base top
	# what lies above the base, 1.3 MiB, in whole clusters; not what it holds itself
	is 'd["data-written"] < 1.7 * 2**20' True
	equal qcow2 base model
	equal qcow2 top model
	must qemu-img check -q base
	cmp mid mid.kept || fail "the image between was changed"
	content plain
	must "$img" create -f qcow2 -b plain -F raw over
	must qemu-io -f qcow2 -c 'write -P 4 3M 1M' over
	must "$img" convert qcow2:over raw:want
	must "$img" commit -f qcow2 over
	cmp plain want || fail "into a raw file"
	must qemu-img create -q -f qcow2 -b plain -F raw q
	held raw plain
	refuses 'plain: in use' "$img" commit -f qcow2 q
}

# formats that note what their parent held: the image can be opened afterwards
commit-is-noted() {
	local format
	content model
	for format in vmdk vhdx; do
		rm -f base mid top
		must "$img" convert "raw:model" "$format:base"
		must "$img" create -q -f $format -b base -F $format mid 12M # the base grows
		must "$img" create -q -f $format -b mid -F $format top
		must "$img" bench -q -w -c 1 -s 9K -o 4M --pattern 5 $format:mid
		must "$img" rebase -u -f $format -b mid -F $format top
		must "$img" bench -q -w -c 1 -s 9K -o 5M --pattern 6 $format:top
		must "$img" convert --force $format:top raw:want
		must "$img" commit -q -b base $format:top
		must "$img" compare -q $format:base raw:want
		must "$img" compare -q $format:top raw:want
		must "$img" commit -q $format:top
		must "$img" compare -q $format:top raw:want
	done
}

rebase() {
	chain
	must "$img" rebase -f qcow2 -b base -F qcow2 top # to what is two below
	equal qcow2 top model
	must qemu-img check -q top
	must "$img" info --json -f qcow2 top
	is 'd["backing-filename"]' "$work/base"
	noise 3M >other # shorter, and all different
	must "$img" rebase -f qcow2 -b other -F raw top
	equal qcow2 top model
	must qemu-img check -q top
	must "$img" create -f qcow q 1M
	refuses 'qcow images stay where they lie' "$img" rebase -f qcow -b other -F raw q
	refuses 'over which image' "$img" rebase -f qcow2 top
	refuses 'other: no format is named' "$img" rebase -f qcow2 -b other top
	refuses 'gone: No such file' "$img" rebase -f qcow2 -b gone -F raw top
	refuses 'top: in use' "$img" rebase -f qcow2 -b top -F qcow2 top
	equal qcow2 top model
}

rebase-to-none() {
	chain
	must "$img" rebase -f qcow2 -b '' top
	rm mid base
	equal qcow2 top model
	must qemu-img check -q top
	must "$img" info --json -f qcow2 top
	is '"backing-filename" in d' False
}

# what is put below an image that stood alone is not seen in its holes
rebase-of-one-alone() {
	local kind
	noise 4M >base.raw
	for kind in 'qcow2 cluster_size=64K' 'qcow2 extended_l2=on' 'vmdk zeroed_grain=on' \
		'vmdk subformat=twoGbMaxExtentSparse' vhd 'vhdx cluster_size=1M'; do
		rm -f a a-s*
		# shellcheck disable=SC2086 # two words
		set -- $kind
		must "$img" create -q -f "$1" ${2:+-o "$2"} a 3001K
		must "$img" bench -q -w -c 1 -d 1 -s 9K -o 700K --pattern 5 -f "$1" a
		must "$img" bench -q -w -c 1 -d 1 -s 64K -o 1M -f "$1" a # with zeroes
		must "$img" convert --force "$1:a" raw:model
		must "$img" rebase -f "$1" -b base.raw -F raw a
		must "$img" compare -q -s "$1:a" raw:model
		must "$img" check -q "$1:a"
	done
}

# over none, and over one again: where the bitmap was there may be a block, or nothing
rebase-vhdx-twice() {
	truncate -s 4M none.raw
	noise 4M >base.raw
	must "$img" create -q -f vhdx -o cluster_size=1M -b none.raw -F raw a
	must "$img" rebase -b '' vhdx:a
	must "$img" bench -q -w -c 1 -s 4K --pattern 5 vhdx:a
	must "$img" convert vhdx:a raw:model
	must "$img" rebase -b base.raw -F raw vhdx:a
	must "$img" compare -q vhdx:a raw:model
	"$img" check -q vhdx:a || [ $? = 3 ] || fail "it is damaged"
}

rebase-unsafe() {
	chain
	mv mid moved
	refuses 'mid: No such file' "$img" rebase -f qcow2 -b moved -F qcow2 top
	must "$img" rebase -u -f qcow2 -b moved -F qcow2 top
	equal qcow2 top model
	must qemu-img check -q top
	must "$img" rebase -u -f qcow2 -b later -F qcow2 top
	refuses 'later: No such file' "$img" map -f qcow2 top
	mv moved later
	equal qcow2 top model
}

rebase-killed() { # it reads as before, whenever it is killed
	truncate -s 300M model
	noise 60M | dd of=model conv=notrunc bs=1M seek=100 status=none
	must "$img" convert raw:model qcow2:base
	must "$img" create -f qcow2 -b base -F qcow2 top
	for _ in 1 2 3 4 5; do
		"$img" rebase -f qcow2 -b '' top &
		pid=$!
		sleep 0.0$((RANDOM % 10))
		kill -KILL $pid 2>/dev/null
		wait $pid 2>/dev/null
		must "$img" resize -f qcow2 top 300M # opens it for writing
		equal qcow2 top model
		must qemu-img check -q -r leaks -f qcow2 top
	done
	must "$img" rebase -f qcow2 -b '' top
	equal qcow2 top model
}

snapshot() {
	content model
	must "$img" convert raw:model qcow2:a
	must "$img" snapshot -c first -f qcow2 a
	cp model first
	write a 2M 1M 9
	must "$img" snapshot --create second -f qcow2 a
	must "$img" snapshot --json -f qcow2 a
	is '[s["name"] for s in d]' "['first', 'second']"
	must qemu-img snapshot -l a
	[ "$(grep -c 'first\|second' out.txt)" = 2 ] || fail "qemu-img lists $(cat out.txt)"
	must "$img" snapshot -a first -f qcow2 a
	equal qcow2 a first
	must "$img" convert qcow2:a,snapshot=second raw:second
	cmp second model || fail "the second reads otherwise"
	must "$img" snapshot -d second qcow2:a
	must "$img" snapshot -l qcow2:a
	grep -q second out.txt && fail "it is still there: $(cat out.txt)"
	must qemu-img check -q a
	# made when the disk was smaller, and when it was larger
	must qemu-img bitmap --add -f qcow2 a bits
	must "$img" snapshot -c small qcow2:a
	cp first small
	must "$img" resize -q qcow2:a +2000K
	write a 9M 1M 7
	must "$img" convert qcow2:a raw:large
	must "$img" snapshot -c large qcow2:a
	must "$img" snapshot -a small qcow2:a
	must "$img" compare -s qcow2:a raw:small
	must qemu-img compare -f qcow2 -F raw a small
	must qemu-img check -q a
	must "$img" snapshot -a large qcow2:a
	must "$img" compare -s qcow2:a raw:large
	must qemu-img compare -f qcow2 -F raw a large
	must qemu-img check -q a
	must "$img" resize -q --shrink qcow2:a 5M
	must "$img" snapshot -a large qcow2:a
	must "$img" compare -s qcow2:a raw:large
	must "$img" compare -s qcow2:a,snapshot=small raw:small
	must qemu-img check -q a
	refuses "no snapshot" "$img" snapshot -d second qcow2:a
	refuses 'one of' "$img" snapshot -l -d first qcow2:a
	refuses 'raw has no snapshots' "$img" snapshot -l raw:model
}

# over-a-larger-one: what the base has past the end of the image is never seen, however
# large that becomes
grown() { # FORMAT SIZE OPTIONS
	rm -f a a-s*
	must "$img" create -q -f "$1" -o "$3" -b base.raw -F raw a "$2"
	head -c "$(bytes "$2")" base.raw >model
	must "$img" compare -q -f "$1" -F raw a model
	for size in 4100K 9M; do
		must "$img" resize -q -f "$1" a $size
		truncate -s $size model
		must "$img" compare -q -f "$1" -F raw a model
		"$img" check -q -f "$1" a || [ $? = 3 ] || fail "$1 $3: damaged at $size"
	done
	must "$img" convert -q -n -f raw -O "$1" model a
	must "$img" compare -q -f "$1" -F raw a model
}

over-a-larger-one() {
	local kind
	noise 8M >base.raw
	for kind in 'qcow2 cluster_size=4K' 'qcow2 cluster_size=64K' 'qcow2 extended_l2=on' \
		'vmdk zeroed_grain=on' 'vmdk zeroed_grain=on,subformat=twoGbMaxExtentSparse' \
		'vhdx cluster_size=2M'; do
		# shellcheck disable=SC2086 # two words
		set -- $kind
		grown "$1" 3001K "$2"
	done
	grown qcow2 3M cluster_size=64K
	grown vmdk 3M zeroed_grain=on
	# by a commit
	rm a
	must "$img" create -q -f qcow2 -b base.raw -F raw a 3001K
	must "$img" create -q -f qcow2 -b a -F qcow2 over 5M
	must "$img" convert --force qcow2:over raw:model
	must "$img" commit -q qcow2:over
	equal qcow2 a model
	# in a cluster that a snapshot has too
	must "$img" create -q -f qcow2 -o extended_l2=on -b base.raw -F raw s 3001K
	must qemu-io -f qcow2 -c 'write -P 5 2999K 2K' s
	must "$img" snapshot -q -c one -f qcow2 s
	must "$img" resize -q -f qcow2 s 5M
	{ head -c 2999K base.raw; head -c 2K /dev/zero | tr '\0' '\5'; } >model
	truncate -s 5M model
	equal qcow2 s model
	must qemu-img create -q -f qcow2 -o compat=0.10 -b base.raw -F raw b 3M
	refuses 'b: its backing file is larger.*version 2' "$img" resize -f qcow2 b 4M
	must "$img" create -q -f vmdk -b base.raw -F raw c 3M
	refuses 'c: its parent is larger.*zeroed_grain' "$img" resize -f vmdk c 4M
	must "$img" create -q -f vhd -b base.raw -F raw d 3M
	refuses 'd: its parent is larger' "$img" resize -f vhd d 4M
}

"$1"
