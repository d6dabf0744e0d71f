# shellcheck shell=bash disable=SC2034,SC2154
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# What every part of the lab needs: where things lie, words for people, and
# the two ways in which files are put together.

cache=${BLKTAP_LAB:-${XDG_CACHE_HOME:-$HOME/.cache}/blktap-lab}
libdir=usr/lib/x86_64-linux-gnu

say() {
	echo "lab: $*"
}

die() {
	echo "lab: $*" >&2
	exit 125
}

# The value of the option $1, given the rest of the command line.
need() {
	(($# > 1)) || die "$1 needs a value"
	echo "$2"
}

require() {
	local tool missing=()
	for tool in "$@"; do
		PATH=$PATH:/usr/sbin:/sbin command -v "$tool" >/dev/null || missing+=("$tool")
	done
	((${#missing[@]} == 0)) ||
		die "not found: ${missing[*]} (scripts/install-packages demo installs them)"
}

now_ms() {
	local s=$EPOCHREALTIME
	echo $((${s/[.,]/} / 1000))
}

# usage: since START_MS   ("12.3 s")
since() {
	local ms=$(($(now_ms) - $1))
	printf '%d.%d s' $((ms / 1000)) $((ms % 1000 / 100))
}

# Where the cache has this Xen, its domain 0 with the packages that were asked for.
xen_entry() {
	echo "$cache/xen/$xen${packages:+ $packages}" | tr ' ' +
}

# usage: root_make DIR   (an empty root in which /bin, /lib... are in /usr)
root_make() {
	local dir
	mkdir -p "$1"/usr
	for dir in bin sbin lib lib64; do
		mkdir -p "$1/usr/$dir"
		ln -s "usr/$dir" "$1/$dir"
	done
}

# usage: ... | root_add DIR [TAR-OPTION...]   (a tar archive into a root)
root_add() {
	local root=$1
	shift
	tar -x -C "$root" --keep-directory-symlink --no-same-owner "$@"
}

# usage: root_pack DIR FILE   (as an initramfs; several can be concatenated)
root_pack() {
	(cd "$1" && find . -mindepth 1 -printf '%P\0' |
		cpio -0 -o -H newc -R 0:0 --quiet) >"$2.new"
	mv "$2.new" "$2"
}
