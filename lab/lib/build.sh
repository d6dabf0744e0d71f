# shellcheck shell=bash disable=SC2034,SC2154
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The ram disks. An initramfs may be several archives one after the other, so
# that only what changed is made anew:
#
#   domain 0:  Xen's user land | modules | init, guest | --tree and libraries
#   guest:     a few programs  | modules | init        | --guest-tree ...
#   driver:    all of domain 0's | modules | a guest's init
#
# The guests' kernels and ram disks lie in host/, which domain 0 sees as /host.

# Programs of the guests' ram disk, beside busybox.
guest_programs=(
	bash blkdiscard blockdev cmp dd e2fsck fallocate flock fsck.ocfs2 kmod losetup
	lsblk md5sum mke2fs mkfs.ocfs2 mount.ocfs2 ocfs2_hb_ctl sha256sum stat sync
	tail timeout truncate
)

lab_build() {
	local start series work
	start=$(now_ms)
	[[ ! -e $state/qemu.pid ]] || ! lab_alive || die "the lab in $state is running"
	[[ ! $tree || -d $tree ]] || die "no folder $tree"
	[[ ! $guest_tree || -d $guest_tree ]] || die "no folder $guest_tree"
	rm -rf "$state"/{host,parts}
	mkdir -p "$state"/{host/jobs,host/guest,parts}
	work=$state/parts

	ln -f "$(xen_entry)/xen" "$state/xen" 2>/dev/null ||
		cp "$(xen_entry)/xen" "$state/xen"
	ln -f "$cache/kernel/$kernel/vmlinux" "$state/vmlinux" 2>/dev/null ||
		cp "$cache/kernel/$kernel/vmlinux" "$state/vmlinux"

	root_make "$work/dom0"
	modules_add "$work/dom0" "$kernel" <"$LAB_HOME/dom0/modules"
	install -m 755 "$LAB_HOME/dom0/init" "$work/dom0/init"
	install -m 755 "$LAB_HOME/dom0/guest" "$work/dom0/usr/bin/guest"
	[[ ! $tree ]] || tree_add "$work/dom0" "$tree"
	root_pack "$work/dom0" "$work/dom0.cpio"
	cat "$(xen_entry)/dom0.cpio" "$work/dom0.cpio" >"$state/dom0.cpio"

	guest_base "$work/base"
	for series in $(printf '%s\n' "${guest_kernels[@]}" | sort -uV); do
		guest_build "$series"
	done
	[[ ! $driver ]] || driver_build
	printf '%s\n' "${guest_kernels[0]}" >"$state/host/guest/default"
	printf 'Xen %s, domain 0 with Linux %s, guests with Linux %s\n' \
		"$xen" "$kernel" "${guest_kernels[*]}" >"$state/about"
	rm -rf "$work"
	say "built in $(since "$start"): $(cat "$state/about")"
}

# usage: guest_base DIR   (what guests of every kernel have in common)
guest_base() {
	local from=$(xen_entry)/root applet
	root_make "$1"
	for applet in $("$from/usr/bin/busybox" --list); do
		ln -s busybox "$1/usr/bin/$applet"
	done
	install -m 755 "$from/usr/bin/busybox" "$1/usr/bin/busybox"
	programs_add "$1" "$from" "${guest_programs[@]}"
	ln -sf mke2fs "$1/usr/sbin/mkfs.ext4"
	ln -sf e2fsck "$1/usr/sbin/fsck.ext4"
	for applet in modprobe insmod rmmod lsmod modinfo; do
		ln -sf kmod "$1/usr/bin/$applet"
	done
	mkdir -p "$1/etc"
	cp "$from/etc/mke2fs.conf" "$1/etc/"
	install -m 755 "$LAB_HOME/guest/init" "$1/init"
	[[ ! $guest_tree ]] || tree_add "$1" "$guest_tree"
	root_pack "$1" "$1.cpio"
}

guest_build() {
	local series=$1 dir=$state/host/guest/$1 file
	mkdir -p "$dir"
	root_make "$state/parts/$series"
	# shellcheck disable=SC2086
	{
		cat "$LAB_HOME/guest/modules"
		[[ ! $guest_modules ]] || printf '%s -\n' $guest_modules
	} | modules_add "$state/parts/$series" "$series"
	root_pack "$state/parts/$series" "$state/parts/$series.cpio"
	cat "$state/parts/base.cpio" "$state/parts/$series.cpio" >"$dir/ramdisk"
	for file in vmlinux vmlinuz; do
		ln -f "$cache/kernel/$series/$file" "$dir/$file" 2>/dev/null ||
			cp "$cache/kernel/$series/$file" "$dir/$file"
	done
}

# A guest with all that domain 0 has, to be a back end for other guests.
driver_build() {
	local dir=$state/host/guest/driver root=$state/parts/driver
	mkdir -p "$dir"
	root_make "$root"
	modules_add "$root" "$kernel" <"$LAB_HOME/driver/modules"
	install -m 755 "$LAB_HOME/guest/init" "$root/init"
	root_pack "$root" "$root.cpio"
	cat "$state/dom0.cpio" "$root.cpio" >"$dir/ramdisk"
	ln -f "$cache/kernel/$kernel/vmlinux" "$dir/vmlinux" 2>/dev/null ||
		cp "$cache/kernel/$kernel/vmlinux" "$dir/vmlinux"
}

# usage: modules_add ROOT SERIES <LIST
modules_add() {
	local root=$1 from=$cache/kernel/$2/modules release name marks files file
	release=$(cat "$cache/kernel/$2/release")
	mkdir -p "$root/usr/lib/modules/$release" "$root/etc"
	while read -r name marks; do
		[[ $name && $name != '#'* ]] || continue
		if ! files=$(PATH=$PATH:/usr/sbin:/sbin modprobe -d "$from" -S "$release" \
			--show-depends "$name" 2>/dev/null); then
			[[ $marks = *'?'* ]] || die "Linux $release has no module $name"
			continue
		fi
		# "builtin NAME", or "insmod FILE" once for each of those needed.
		while read -r _ file _; do
			[[ $file = /* ]] || continue
			install -D -m 644 "$file" "$root/${file#"$from/"}"
		done <<<"$files"
		[[ $marks = *-* ]] || echo "$name"
	done >"$root/etc/modules"
	cp "$from/usr/lib/modules/$release"/modules.{builtin*,order} \
		"$root/usr/lib/modules/$release/"
	PATH=$PATH:/usr/sbin:/sbin depmod -b "$root" "$release"
}

# usage: programs_add ROOT SYSROOT NAME...   (with their libraries)
programs_add() {
	local root=$1 from=$2 name path
	shift 2
	for name in "$@"; do
		path=$(cd "$from" && compgen -G "usr/[bs]*in/$name") ||
			die "$from has no $name"
		install -D -m 755 "$from/$path" "$root/$path"
		libraries_of "$from" "$from/$path" "$from/$libdir"
	done | sort -u | while read -r path; do
		install -D -m 755 "$path" "$root/$libdir/${path##*/}"
	done
	install -D -m 755 "$from/$libdir/ld-linux-x86-64.so.2" \
		"$root/usr/lib64/ld-linux-x86-64.so.2"
}

# usage: tree_add ROOT DIR
# Adds DIR, and from the build host the libraries that its programs need and
# the ram disk's own release does not have.
tree_add() {
	local root=$1 dir=$2 from=$(xen_entry)/root file path found
	tar -c -C "$dir" . | root_add "$root"
	while read -r -d '' file; do
		[[ $(head -c 4 "$file" | tr -d '\0') = $'\x7fELF' ]] || continue
		found=$(libraries_of "$from" "$file" \
			"$dir/$libdir:$dir/usr/lib:$from/$libdir:/$libdir:/usr/lib") ||
			die "$file cannot run beside Xen $xen: $found"
		while read -r path; do
			[[ $path && $path != "$dir"/* ]] || continue
			# The guests' ram disk is no complete sysroot.
			[[ $path != "$from"/* || $root != */dom0 ]] || continue
			install -D -m 755 "$path" "$root/$libdir/${path##*/}"
		done <<<"$found"
	done < <(find "$dir" -type f \( -perm /111 -o -name '*.so*' \) -print0)
}

# usage: libraries_of SYSROOT FILE PATH
# prints the libraries that FILE is run with under the sysroot's loader when
# they are looked for in PATH; or else what is wrong
libraries_of() {
	local out
	out=$("$1/$libdir/ld-linux-x86-64.so.2" --library-path "$3" --list "$2" 2>&1) || {
		# Static programs and data that looks like a program need none.
		[[ $out = *'statically linked'* || $out = *'not a dynamic'* ||
			$out = *'cannot be loaded'* ]] && return
	}
	if [[ $out = *'not found'* ]]; then
		grep 'not found' <<<"$out" | head -3
		return 1
	fi
	sed -n 's/.* => \(\/[^ ]*\) .*/\1/p' <<<"$out"
}
