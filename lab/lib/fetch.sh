# shellcheck shell=bash disable=SC2034,SC2154
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Packages: what the lab runs comes from the distribution's archive through a
# private configuration of apt, which downloads and checks signatures as ever
# but installs nothing. In the cache:
#
#   apt/CODENAME/   apt's private folders: sources, indexes
#   deb/CODENAME/   packages as downloaded
#   xen/VERSION/    (and +PACKAGE... with --packages) xen (the hypervisor), root/ (domain 0's user land),
#                   dom0.cpio and guest.cpio (made of root/)
#   kernel/SERIES/  vmlinux, vmlinuz, modules/, release
#
# Debian 12 and 13 lend each other their Xen: it is the same archive with
# another codename. An entry is made anew when apt has newer packages (asked
# once a week, or with --update) or when this file changes.

# User land of domain 0, beside Xen's own tools.
dom0_packages=(
	bash bsdutils busybox-static coreutils diffutils e2fsprogs fdisk findutils
	gawk grep hostname jq kmod mount ocfs2-tools procps qemu-utils sed strace
	util-linux xenstore-utils
)

# What those depend on but nothing here uses.
unused_packages='^(perl.*|libperl.*|.*-perl|(lib)?python3.*|debconf|dpkg|adduser|ucf|usrmerge|install-info|media-types|sensible-utils|libdb5.*|libsqlite.*|gcc-.*-base|base-files|base-passwd|init-system-helpers|lsb-base|psmisc|readline-common|sysvinit-utils|.*-common-data)$'

# Parts of a kernel package that can hold a module of modules-dom0 or
# modules-guest, or one that those need.
kernel_parts=(
	drivers/block drivers/dax drivers/md drivers/net/xen-netback
	'drivers/net/xen-netfront*' drivers/scsi drivers/virtio drivers/xen
	fs/9p fs/configfs fs/ext4 fs/fscache fs/fuse fs/jbd2 fs/lockd 'fs/mbcache*'
	fs/netfs fs/nfs fs/nfs_common fs/nfsd fs/ocfs2 fs/quota fs/xfs net/802
	net/9p net/bridge net/dns_resolver net/llc net/sunrpc lib crypto
	arch/x86/crypto
)

lab_fetch() {
	[[ $(uname -m) = x86_64 ]] || die "the lab is for x86_64"
	require apt-get apt-cache dpkg-deb tar cpio xz zstd depmod
	mkdir -p "$cache"/{apt,deb,xen,kernel}
	exec 9>"$cache/lock"
	flock -w 900 9 || die "another lab holds $cache/lock"
	rm -rf "$cache"/{xen,kernel}/.new.*
	find "$cache/deb" -name '*.deb' -ctime +30 -delete
	[[ ! $update ]] || rm -f "$cache"/apt/*/updated

	native=$(host_codename)
	[[ $xen != native ]] || xen=$(codename_xen "$native")
	xen_codename=$(xen_codename "$xen")
	xen_fetch

	[[ $kernel != native ]] || kernel=$(codename_kernel "$xen_codename")
	((${#guest_kernels[@]})) || guest_kernels=("$kernel")
	local series
	for series in $(printf '%s\n' "$kernel" "${guest_kernels[@]}" | sort -uV); do
		kernel_fetch "$series"
	done
	exec 9>&-
}

# --- which release has what ---------------------------------------------

host_codename() {
	# shellcheck disable=SC1091
	(. /etc/os-release && echo "${VERSION_CODENAME:?no codename in os-release}")
}

codename_xen() {
	case $1 in
	bookworm) echo 4.17 ;;
	trixie)   echo 4.20 ;;
	*)
		apt_setup "$1"
		apt_in "$1" apt-cache -n search '^xen-hypervisor-[0-9.]*-amd64$' |
			sed 's/^xen-hypervisor-\([0-9.]*\)-.*/\1/' | sort -V | tail -1 |
			grep . || die "the archive of $1 has no Xen" ;;
	esac
}

codename_kernel() {
	case $1 in
	bookworm) echo 6.1 ;;
	trixie)   echo 6.12 ;;
	*)        die "say which kernel with --kernel" ;;
	esac
}

xen_codename() {
	case $1 in
	4.17) echo bookworm ;;
	4.20) echo trixie ;;
	*)    echo "$native" ;;
	esac
}

# --- apt, in folders of its own -----------------------------------------

apt_in() {
	local codename=$1
	shift
	APT_CONFIG=$cache/apt/$codename/apt.conf "$@"
}

# The host's own sources of its release, with the codename exchanged. What is in
# preparation (sid) has nothing beside itself.
apt_sources() {
	local codename=$1 key=/usr/share/keyrings/debian-archive-keyring.gpg
	local uri release component with=
	[[ ! -e $key ]] || with="[signed-by=$key] "
	# shellcheck disable=SC2016
	apt-get indextargets --no-release-info --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' \
		'Created-By: Packages' | sort -u |
		while read -r uri release component; do
			[[ $release = "$native"?(-updates|-security) ]] || continue
			[[ $codename != sid || $release = "$native" ]] || continue
			echo "deb $with$uri ${release/$native/$codename} $component"
		done
}

# usage: apt_setup CODENAME   (and its indexes, unless they are young)
apt_setup() {
	local codename=$1 dir=$cache/apt/$1
	mkdir -p "$dir"/{lists,cache}/partial "$dir/archives/partial"
	[[ -e $dir/status ]] || : >"$dir/status"
	apt_sources "$codename" >"$dir/sources.list"
	[[ -s $dir/sources.list ]] ||
		die "apt has no source for $native to derive $codename from"
	cat >"$dir/apt.conf" <<-END
	Dir::Etc::sourcelist "$dir/sources.list";
	Dir::Etc::sourceparts "/dev/null";
	Dir::Etc::preferencesparts "/dev/null";
	Dir::State "$dir";
	Dir::State::lists "$dir/lists";
	Dir::State::status "$dir/status";
	Dir::Cache "$dir/cache";
	APT::Sandbox::User "";
	APT::Architecture "amd64";
	APT::Architectures "amd64";
	APT::Install-Recommends "false";
	Acquire::Languages "none";
	DPkg::Post-Invoke "";
	APT::Update::Post-Invoke "";
	APT::Update::Post-Invoke-Success "";
	END
	if [[ -z $(find "$dir/updated" -mmin -60 2>/dev/null) ]]; then
		say "asking apt what $codename has"
		apt_in "$codename" apt-get -qq update || die "apt-get update failed for $codename"
		touch "$dir/updated"
	fi
}

# usage: apt_closure CODENAME PACKAGE...
# prints NAME=VERSION of the packages and all that they need
apt_closure() {
	local codename=$1
	shift
	apt_in "$codename" apt-get -qq -s install "$@" |
		sed -n 's/^Inst \([^ ]*\) (\([^ ]*\) .*/\1=\2/p' | sort -u
}

# usage: apt_download CODENAME NAME=VERSION...   prints the files' paths
apt_download() {
	local codename=$1 dir=$cache/deb/$1 item file missing=() files=()
	shift
	mkdir -p "$dir"
	for item in "$@"; do
		file=${item#*=}
		file=$dir/${item%%=*}_${file//:/%3a}
		files+=("$file")
		compgen -G "${file}_*.deb" >/dev/null || missing+=("$item")
	done
	if ((${#missing[@]})); then
		(cd "$dir" && apt_in "$codename" apt-get -qq download "${missing[@]}") >&2 || {
			rm -f "$cache/apt/$codename/updated"
			die "download failed: ${missing[*]}"
		}
	fi
	for file in "${files[@]}"; do
		compgen -G "${file}_*.deb"
	done
}

# --- entries of the cache -----------------------------------------------

# usage: entry_fresh DIR   (made by this recipe, and asked about this week)
entry_fresh() {
	[[ ! $update && $(cat "$1/recipe" 2>/dev/null) = "$(recipe)" ]] &&
		[[ $(find "$1/asked" -mtime -7 2>/dev/null) ]]
}

# usage: entry_same DIR LIST   (holds exactly the packages of LIST)
entry_same() {
	[[ $(cat "$1/recipe" 2>/dev/null) = "$(recipe)" ]] &&
		[[ $(cat "$1/packages" 2>/dev/null) = "$2" ]] && touch "$1/asked"
}

# usage: entry_done NEW DIR LIST   (takes the place of the entry before it)
entry_done() {
	echo "$3" >"$1/packages"
	recipe >"$1/recipe"
	touch "$1/asked"
	rm -rf "$2"
	mv "$1" "$2"
}

recipe() {
	cat "$LAB_HOME"/lib/{common,fetch}.sh | sha256sum
}

xen_fetch() {
	local dir new=$cache/xen/.new.$$ list files file start
	local root=$new/root
	dir=$(xen_entry)
	entry_fresh "$dir" && return
	start=$(now_ms)
	apt_setup "$xen_codename"
	list=$(apt_closure "$xen_codename" "xen-hypervisor-$xen-amd64" \
		"xen-utils-$xen" "${dom0_packages[@]}" $packages | grep -vE "$unused_packages")
	[[ $list ]] || die "Xen $xen is not among the packages of $xen_codename"
	entry_same "$dir" "$list" && return

	# shellcheck disable=SC2086
	files=$(apt_download "$xen_codename" $list)
	root_make "$root"
	for file in $files; do
		dpkg-deb --fsys-tarfile "$file" | root_add "$root" \
			--exclude='./usr/share' --exclude='*/python3' --exclude='*/perl*' \
			--exclude='*/gconv' --exclude='*/systemd' --exclude='./etc/init.d' \
			--exclude='*/udev/hwdb.d' \
			--exclude='./usr/lib/debug' --exclude='./usr/lib/xen-*/lib/python'
	done
	for file in $files; do
		firmware_add "$root" "$file"
	done
	# QEMU's multiboot loader does not decompress.
	gzip -dc "$root/boot/xen-$xen"*-amd64.gz >"$new/xen"
	rm -rf "$root"/{boot,tmp}
	# What the packages' own scripts would have made.
	ln -sf gawk "$root/usr/bin/awk"
	applets_add "$root"
	root_pack "$root" "$new/dom0.cpio"
	entry_done "$new" "$dir" "$list"
	say "Xen $(sed -n 's/^xen-hypervisor-.*=//p' <<<"$list") unpacked ($(since "$start"))"
}

# usage: firmware_add ROOT PACKAGE   (what QEMU wants of /usr/share: without a keyboard's
# map it does not start, not even to serve disks; HVM guests need a BIOS)
firmware_add() {
	local files=()
	case $2 in
	*/qemu-system-data_*)
		files=(./usr/share/qemu/keymaps/en-us ./usr/share/qemu/{kvmvapic,linuxboot*}.bin) ;;
	*/seabios_*) files=(./usr/share/seabios/bios-256k.bin) ;;
	*) return 0 ;;
	esac
	dpkg-deb --fsys-tarfile "$2" | root_add "$1" --wildcards "${files[@]}"
}

# usage: applets_add ROOT   (busybox's, where the packages brought no program)
applets_add() {
	local applet
	for applet in $("$1/usr/bin/busybox" --list); do
		compgen -G "$1/usr/*bin/$applet" >/dev/null ||
			ln -s busybox "$1/usr/bin/$applet"
	done
}

# usage: kernel_find SERIES   prints CODENAME PACKAGE=VERSION...
# SERIES may be a codename: the kernel that this release has now. Kernels since 7.0
# come in parts.
kernel_find() {
	local series=$1 codename meta item
	if [[ $series != [0-9]* ]]; then
		apt_setup "$series" >&2
		item=$(apt_closure "$series" linux-image-amd64 |
			grep -E '^linux-(base|image|binary|modules)-[0-9][^=]*-amd64=' | paste -sd ' ')
		[[ $item ]] || die "the archive of $series has no kernel"
		echo "$series $item"
		return
	fi
	for codename in $(printf '%s\n' "$native" "$xen_codename" bookworm trixie |
		awk '!seen[$0]++'); do
		apt_setup "$codename" >&2
		for meta in "linux-image-$series-amd64" linux-image-amd64; do
			item=$(apt_closure "$codename" "$meta" 2>/dev/null |
				grep -E "^linux-image-${series/./\\.}\.[^=]*-amd64=" | head -1) || continue
			echo "$codename $item"
			return
		done
	done
	die "no kernel $series in the archive"
}

kernel_fetch() {
	local series=$1 dir=$cache/kernel/$1 new=$cache/kernel/.new.$$
	local found codename items file part parts=() start
	entry_fresh "$dir" && return
	start=$(now_ms)
	found=$(kernel_find "$series")
	read -r codename items <<<"$found"
	entry_same "$dir" "$found" && return

	for part in "${kernel_parts[@]}"; do
		parts+=("*/modules/*/kernel/$part/*" "*/modules/*/kernel/$part.ko*")
	done
	root_make "$new/modules"
	# tar complains about patterns that match nothing; what is required is
	# checked when the ram disks are made.
	# shellcheck disable=SC2086
	for file in $(apt_download "$codename" $items); do
		dpkg-deb --fsys-tarfile "$file" |
			root_add "$new/modules" --wildcards '*/vmlinuz*' \
				'*/modules/*/modules.builtin*' '*/modules/*/modules.order' \
				"${parts[@]}" 2>/dev/null || true
	done
	find "$new/modules" -name '*.ko.xz' -exec xz -d {} +
	find "$new/modules" -name '*.ko.zst' -exec zstd -q -d --rm {} +
	basename "$new"/modules/usr/lib/modules/* >"$new/release"
	file=$(find "$new/modules" -name 'vmlinuz*')
	[[ $file ]] || die "no kernel in $items"
	mv "$file" "$new/vmlinuz"
	kernel_unpack "$new/vmlinuz" >"$new/vmlinux"
	rm -rf "$new/modules/boot"
	PATH=$PATH:/usr/sbin:/sbin depmod -b "$new/modules" "$(cat "$new/release")"
	entry_done "$new" "$dir" "$found"
	say "Linux ${items##*=} unpacked ($(since "$start"))"
}

# usage: kernel_unpack BZIMAGE   (to the ELF file within, on stdout)
#
# Where the compressed kernel lies is said in the boot protocol's header. Its
# last four bytes are its unpacked size, except for gzip, which has that
# anyway.
kernel_unpack() {
	local image=$1 sectors at size magic
	sectors=$(od -An -tu1 -j $((0x1f1)) -N1 "$image")
	at=$(od -An -tu4 -j $((0x248)) -N4 "$image")
	size=$(od -An -tu4 -j $((0x24c)) -N4 "$image")
	at=$((at + (sectors + 1) * 512))
	magic=$(od -An -tx1 -j $at -N4 "$image" | tr -d ' ')
	head -c $((at + size - 4)) "$image" | tail -c $((size - 4)) |
		case $magic in
		28b52ffd) zstd -dc ;;
		fd377a58) xz -dc --single-stream ;;
		1f8b*)    gzip -dcq || (($? == 2)) ;;
		*)        die "$image: unknown compression ($magic)" ;;
		esac
}
