#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The whole thing on a real Xen host in QEMU: stock xl, real guests, our tree.
#
#   lab.sh XEN KERNEL [CASE]  e.g. lab.sh 4.17 6.1: Xen, and the kernel of domain 0
#
# One boot serves all cases; they are in lab-*.sh. With CASE only that is run, and its
# words are shown; those of lab-more.sh, which take minutes, are run by name only
# (make lab-more). LAB_MORE=1 adds Linux as an HVM guest, which takes two minutes. Exit
# code 77: no QEMU here.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source=$(cd "$here/../.." && pwd)
xen=$1 kernel=$2 only=${3-}
driver='' cpus=1
[[ ! $only ]] || cpus=2 # it measures
words=()
[[ $only != an_image_on_nfs_* ]] || words=(--memory 1600 --disk 1G)
if [[ $xen = 4.17 || $only = a_guest_is_served_by_another ]]; then
	driver=1 # for one of its cases
else
	words+=(--packages qemu-system-xen) # for HVM guests
fi
lab=$source/lab/lab
kernels=${LAB_KERNELS:-6.1 6.12} # of guests

for tool in qemu-system-x86_64 cpio mkfs.ext4 as; do
	PATH=$PATH:/usr/sbin:/sbin command -v "$tool" >/dev/null || {
		echo "skipped: no $tool (scripts/install-packages demo installs it)"
		exit 77
	}
done

work=$(mktemp -d)
stop() {
	"$lab" stop --state "$work/state" >/dev/null 2>&1 || true
	rm -rf "$work"
}
trap stop EXIT
trap 'exit 1' INT TERM

DESTDIR=$work/tree meson install -C "${MESON_BUILD_ROOT:?run by meson test}" \
	--no-rebuild >"$work/install.log" 2>&1 || { cat "$work/install.log"; exit 1; }

# One boot and all cases.
cases() {
	local code=0
	"$lab" boot --state "$work/state" --xen "$xen" --kernel "$kernel" --cpus "$cpus" \
		$(printf -- '--guest-kernel %s ' $kernels) --guest-modules "${only:+nfsd nfsv4}" \
		${driver:+--driver} --tree "$work/tree" --lifetime "${LAB_TIME:-1800}" \
		"${words[@]}" || return
	rm -f "$work/state/host/blktapctrl.log"
	cp "$here"/lab-{dom0,xl,hvm,ocfs2,more}.sh "$work/state/host/"
	as --32 -o "$work/boot-sector.o" "$here/boot-sector.S"
	ld -m elf_i386 --oformat binary -Ttext 0x7c00 -e _start \
		-o "$work/state/host/boot-sector" "$work/boot-sector.o"
	# In the background, so that a signal is heeded at once. The longest case
	# has 320 s, and a case that ends says so.
	"$lab" run --state "$work/state" --timeout "${LAB_TIME:-1500}" \
		--stall "${LAB_STALL:-330}" <<-END >"$work/cases" &
		export LAB_MORE=${LAB_MORE-} LAB_KERNELS='$kernels'
		exec bash /host/lab-dom0.sh $xen $only
	END
	wait $! || code=$?
	if ((code)); then
		echo "--- blktapctrl's log"
		tail -n 40 "$work/state/host/blktapctrl.log"
		echo "--- cases"
	fi
	cat "$work/cases"
	"$lab" stop --state "$work/state" >/dev/null
	return "$code"
}

code=0
cases || code=$?
if ((code == 99 || code == 124)); then
	# What CI shows of a test that passed.
	grep -h '^FAIL' "$work/cases" | sed 's/^/note: booted twice, since: /' || true
	echo "note: a program that is not ours faulted, or all stood still ($code)"
	code=0
	cases || code=$?
fi
exit "$code"
