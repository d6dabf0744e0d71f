# SPDX-License-Identifier: LGPL-2.1-or-later
# Random requests on images of a format that has all_agree(): everybody reads the same.

# ours_of OPS BLOCK...: on images of ours
ours_of() {
	local block
	for block in "${@:2}"; do
		fresh 5001K -c "$block"
		writes a model seed="$seed" ops="$1"
		all_agree a model
		writes a model seed="$seed" ops="$1" align=4096 engine=libaio
		all_agree a model
	done
}

# reserved_of OPS BLOCK: all space is there from the start
reserved_of() {
	fresh 9M -r -c "$2"
	all_agree a model
	sound a
	grep -qx 'allocated: 5 of 5' out.txt || fail "$(cat out.txt)"
	writes a model seed="$seed" ops="$1"
	all_agree a model
}

# turns_of OPS BLOCK OPTION: writers take turns: each leaves what the other goes on with
turns_of() {
	local kind n
	for kind in dynamic fixed; do
		rm -f a
		must qemu-img create -q -f "$qemu" -o "subformat=$kind,$3" a 9M
		model 9M
		for n in 1 2 3; do
			writes a model seed="$seed" ops="$1"
			all_agree a model
			theirs a model "$seed$n"
			sound a
		done
	done
	fresh 9M -c "$2"
	for n in 1 2 3; do
		theirs a model "$seed$n"
		sound a
		writes a model seed="$seed" ops="$1"
		all_agree a model
	done
}

# over_raw OPS BLOCK...: over a raw image
over_raw() {
	local block
	head -c 9M /dev/urandom >raw
	for block in "${@:2}"; do
		rm -f a
		must "$QCOW_CREATE" -q -f "$driver" -c "$block" 0 a raw
		cp raw model
		writes a model seed="$seed" ops="$1"
		writes a model seed="$seed" ops="$1" align=4096 engine=libaio
	done
}
