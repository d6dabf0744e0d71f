# SPDX-License-Identifier: LGPL-2.1-or-later
# Other sizes, other parents: what formats share that have all_agree().

grow() { # IMAGE MODEL SIZE
	must "$TAP_IMG" resize -q -f "$type" "$1" "$3"
	truncate -s "$(numfmt --from=iec "$3")" "$2"
	must "$TAP_IMG" compare -q -f "$type" -F raw "$1" "$2"
	sound "$1"
}

# grown AGREE OPS OPTION...: an image with each of the options grows; others AGREE
grown() {
	local option size
	for option in "${@:3}"; do
		rm -f a
		must "$TAP_IMG" create -q -f "$type" -o "$option" a 2001K
		model 2001K
		writes a model seed="$seed" ops="$2"
		for size in 2002K 7M 40M; do
			grow a model $size
			"$1" a model
			writes a model seed="$seed" ops="$2"
		done
	done
	refuses "a: a ${type^^} cannot be made smaller" "$TAP_IMG" resize -q --shrink -f "$type" a 1M
}

# hides IMAGE: of 4 MiB of sevens, with a header that says 1 MiB and a sector: when it
# grows to 3 MiB what lies past that is not seen
hides() {
	must "$TAP_IMG" resize -q -f "$type" "$1" 3M
	rm -f got
	must "$TAP_IMG" convert -q -f "$type" -O raw "$1" got
	must cmp got <(head -c $((1048576 + 512)) /dev/zero | tr '\0' '\7'
		head -c $((2097152 - 512)) /dev/zero)
}

parent_is_larger() {
	must "$TAP_IMG" create -q -f "$type" base 8M
	must "$TAP_IMG" create -q -f "$type" -b base -F "$type" small 4M
	refuses 'small: its parent is larger than it is' "$TAP_IMG" resize -q -f "$type" small 6M
}

# two images, one and two, with what raw and other.raw hold
two_parents() {
	head -c 9M /dev/urandom >raw
	must "$TAP_IMG" convert -q -f raw -O "$type" raw one
	head -c 5M raw >other.raw
	head -c 4M /dev/urandom >>other.raw
	must "$TAP_IMG" convert -q -f raw -O "$type" other.raw two
}

reads() { # IMAGE MODEL: we see that
	must "$TAP_IMG" compare -q -f "$type" -F raw "$1" "$2"
}

# rebased OPS BLOCK: an image lies over one, two, a raw image, two again, none, one, none
rebased() {
	rm -f a
	must "$TAP_IMG" create -q -f "$type" -o "cluster_size=$2" -b one -F "$type" a
	cp raw model
	writes a model seed="$seed" ops="$1"
	must "$TAP_IMG" rebase -f "$type" -b two -F "$type" a
	must "$TAP_IMG" info "$type:a"
	grep -q '^backing-file: .*two$' out.txt || fail "$(cat out.txt)"
	reads a model
	libvhdi a model two
	writes a model seed="$seed" ops="$1"
	must "$TAP_IMG" rebase -f "$type" -b other.raw -F raw a
	reads a model
	mv two gone # --unsafe wants none of them
	must "$TAP_IMG" rebase -f "$type" --unsafe -b one -F "$type" a
	mv gone two
	must "$TAP_IMG" rebase -f "$type" --unsafe -b two -F "$type" a
	reads a model
	sound a
	must "$TAP_IMG" rebase -f "$type" -b "" a
	all_agree a model
	must "$TAP_IMG" rebase -f "$type" -b one -F "$type" a
	reads a model
	writes a model seed="$seed" ops="$1"
	must "$TAP_IMG" rebase -f "$type" -b "" a
	all_agree a model
	sound a
}

# rebased_unsafe OPS: what an image does not hold is what the new one says; all comes
# into that one
rebased_unsafe() {
	must "$TAP_IMG" create -q -f "$type" -b one -F "$type" b
	must "$TAP_IMG" rebase -f "$type" --unsafe -b two -F "$type" b
	reads b other.raw
	must "$TAP_IMG" rebase -f "$type" --unsafe -b one -F "$type" b
	cp raw model
	writes b model seed="$seed" ops="$1"
	must "$TAP_IMG" commit -q -f "$type" b
	all_agree one model
	must "$TAP_IMG" create -q -f "$type" -o subformat=fixed f 1M
	refuses "f: a fixed ${type^^} lies over nothing" "$TAP_IMG" rebase -f "$type" -b one \
		-F "$type" f
}
