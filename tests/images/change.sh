# SPDX-License-Identifier: LGPL-2.1-or-later
# Other sizes, other parents: what formats share that have all_agree().

grow() { # IMAGE MODEL SIZE
	must "$TAP_IMG" resize -q -f "$driver" "$1" "$3"
	truncate -s "$(numfmt --from=iec "$3")" "$2"
	must "$TAP_IMG" compare -q -f "$driver" -F raw "$1" "$2"
	sound "$1"
}

# grown AGREE OPS OPTION...: an image with each of the options grows; others AGREE
grown() {
	local option size
	for option in "${@:3}"; do
		rm -f a
		must "$TAP_IMG" create -q -f "$driver" -o "$option" a 2001K
		model 2001K
		writes a model seed="$seed" ops="$2"
		for size in 2002K 7M 40M; do
			grow a model $size
			"$1" a model
			writes a model seed="$seed" ops="$2"
		done
	done
	refuses "a: a ${driver^^} cannot be made smaller" "$TAP_IMG" resize -q --shrink -f "$driver" a 1M
}

# hides IMAGE: of 4 MiB of sevens, with a header that says 1 MiB and a sector: when it
# grows to 3 MiB what lies past that is not seen
hides() {
	must "$TAP_IMG" resize -q -f "$driver" "$1" 3M
	rm -f got
	must "$TAP_IMG" convert -q -f "$driver" -O raw "$1" got
	must cmp got <(head -c $((1048576 + 512)) /dev/zero | tr '\0' '\7'
		head -c $((2097152 - 512)) /dev/zero)
}

parent_is_larger() {
	must "$TAP_IMG" create -q -f "$driver" base 8M
	must "$TAP_IMG" create -q -f "$driver" -b base -F "$driver" small 4M
	refuses 'small: its parent is larger than it is' "$TAP_IMG" resize -q -f "$driver" small 6M
}

# two images, one and two, with what raw and other.raw hold
two_parents() {
	head -c 9M /dev/urandom >raw
	must "$TAP_IMG" convert -q -f raw -O "$driver" raw one
	head -c 5M raw >other.raw
	head -c 4M /dev/urandom >>other.raw
	must "$TAP_IMG" convert -q -f raw -O "$driver" other.raw two
}

reads() { # IMAGE MODEL: we see that
	must "$TAP_IMG" compare -q -f "$driver" -F raw "$1" "$2"
}

# rebased OPS BLOCK: an image lies over one, two, a raw image, two again, none, one, none
rebased() {
	rm -f a
	must "$TAP_IMG" create -q -f "$driver" -o "cluster_size=$2" -b one -F "$driver" a
	cp raw model
	writes a model seed="$seed" ops="$1"
	must "$TAP_IMG" rebase -f "$driver" -b two -F "$driver" a
	must "$TAP_IMG" info "$driver:a"
	grep -q '^backing-file: .*two$' out.txt || fail "$(cat out.txt)"
	reads a model
	libvhdi a model two
	writes a model seed="$seed" ops="$1"
	must "$TAP_IMG" rebase -f "$driver" -b other.raw -F raw a
	reads a model
	mv two gone # --unsafe wants none of them
	must "$TAP_IMG" rebase -f "$driver" --unsafe -b one -F "$driver" a
	mv gone two
	must "$TAP_IMG" rebase -f "$driver" --unsafe -b two -F "$driver" a
	reads a model
	sound a
	must "$TAP_IMG" rebase -f "$driver" -b "" a
	all_agree a model
	must "$TAP_IMG" rebase -f "$driver" -b one -F "$driver" a
	reads a model
	writes a model seed="$seed" ops="$1"
	must "$TAP_IMG" rebase -f "$driver" -b "" a
	all_agree a model
	sound a
}

# rebased_unsafe OPS: what an image does not hold is what the new one says; all comes
# into that one
rebased_unsafe() {
	must "$TAP_IMG" create -q -f "$driver" -b one -F "$driver" b
	must "$TAP_IMG" rebase -f "$driver" --unsafe -b two -F "$driver" b
	reads b other.raw
	must "$TAP_IMG" rebase -f "$driver" --unsafe -b one -F "$driver" b
	cp raw model
	writes b model seed="$seed" ops="$1"
	must "$TAP_IMG" commit -q -f "$driver" b
	all_agree one model
	must "$TAP_IMG" create -q -f "$driver" -o subformat=fixed f 1M
	refuses "f: a fixed ${driver^^} lies over nothing" "$TAP_IMG" rebase -f "$driver" -b one \
		-F "$driver" f
}
