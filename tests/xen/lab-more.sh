# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Cases of lab-dom0.sh that take minutes, each by name and in a lab of its own
# (lab-boot.sh says which): make lab-more runs them all.

# ---- no flood of dirty pages -------------------------------------------------------
#
#   guest writer -- tapdisk, or loop -- NFS client -- vif -- guest server -- ext4 on its xvda
#                   (all of this is domain 0)

# What domain 0 still has to write: Dirty, Writeback and, of older kernels, NFS_Unstable.
unwritten() {
	local name size sum=0
	while read -r name size _; do
		case $name in
		Dirty: | Writeback: | NFS_Unstable:) ((sum += size)) ;;
		esac
	done </proc/meminfo
	echo "$sum"
}

# The most of it, in KiB, until /run/enough is there.
most_unwritten() {
	local now most=0
	exec 7<> <(:)
	until [[ -e /run/enough ]]; do
		now=$(unwritten)
		((now <= most)) || most=$now
		read -r -t 0.1 <&7
	done
	echo "$most"
}

# usage: write_much MIB | guest exec NAME   (over and over a disk of 512 MiB, of which
# the last is read again)
write_much() {
	cat <<-END
		set -e
		$(when "-b /dev/xvda")
		head -c 16777216 /dev/urandom >/run/block
		for ((at = 0; at < $1; at += 16)); do
			dd if=/run/block of=/dev/xvda bs=1M seek=\$((at % 512)) oflag=direct 2>/dev/null
		done
		sync /dev/xvda
		dd if=/dev/xvda bs=1M skip=\$(((at - 16) % 512)) count=16 iflag=direct 2>/dev/null |
			cmp - /run/block
	END
}

# usage: written_through MIB DISK   (prints by how many KiB `unwritten` grew meanwhile)
written_through() {
	local before sampler much=$1 part start
	sync
	echo 3 >/proc/sys/vm/drop_caches
	start writer --timeout 300 "$2" >&2
	before=$(unwritten)
	rm -f /run/enough
	most_unwritten >/run/most &
	sampler=$!
	start=$SECONDS
	while ((much > 0)); do
		part=$((much < 128 ? much : 128))
		write_much "$part" | guest exec writer --timeout 900 >&2 ||
			{ touch /run/enough; die "writer failed"; } >&2
		((much -= part))
		echo "$2: $(($1 - much)) MiB after $((SECONDS - start)) s" >&2
	done
	touch /run/enough
	wait $sampler
	guest stop writer >&2
	echo $(($(cat /run/most) - before))
}

domain_0_mounts_nfs() {
	modprobe -a bridge xen-netback nfsv4
	brctl addbr lab0
	ip addr add 10.7.0.1/24 dev lab0
	ip link set lab0 up
	start server --kernel 6.12 --memory 224 "$(disk xvda w aio:/dev/vdb)"
	xl network-attach server bridge=lab0
	{
		guest_address 2
		nfs_server /dev/xvda
	} | guest exec server
	mkdir /nfs
	mount -i -t nfs4 -o vers=4.2,addr=10.7.0.2,clientaddr=10.7.0.1 10.7.0.2:/ /nfs
}

# usage: no_dirty_pages_beside_loop MIB MIB   (to write through tapdisk, and loop)
no_dirty_pages_beside_loop() {
	local ours loops
	truncate -s 512M /nfs/{ours,loop}.img
	ours=$(written_through "$1" "$(disk xvda w aio:/nfs/ours.img)")
	echo "tapdisk: Dirty and Writeback grew by $ours KiB at most"
	loops=$(written_through "$2" "phy:$(losetup -f --show /nfs/loop.img),xvda,w")
	echo "xen-blkback over loop: Dirty and Writeback grew by $loops KiB at most"
	((ours < 16384)) || die "tapdisk's are too many"
	((loops > ours)) || die "the sampler sees nothing"
	! dmesg | grep -iE 'out of memory|oom-kill' || die "memory ran out"
}

an_image_on_nfs_leaves_no_flood_of_dirty_pages() {
	local memory
	daemon_start
	domain_0_mounts_nfs
	memory=$(awk '/^MemTotal:/ { print int($2 / 1024) }' /proc/meminfo)
	echo "domain 0 has $memory MiB"
	no_dirty_pages_beside_loop $((4 * memory)) 256
	xl destroy server
}

# ---- Linux's front end, with its options -------------------------------------------
#
# One guest, whose driver is loaded anew with each row's options (while it has no disk:
# Linux keeps it else). It allocates what a full ring of largest requests would need if it
# copies, so long rings of large requests are too much for a small guest. Of two disks one offers all that we have, the other next to nothing.

# Data in large and in small requests, read again; and a flush.
try_both_disks() {
	cat <<-'END'
		head -c 3145728 /dev/urandom >/run/data
		for disk in xvdb xvdc; do
			dd if=/run/data of=/dev/$disk bs=1M oflag=direct conv=fsync 2>/dev/null
			dd if=/run/data of=/dev/$disk bs=4k count=20 seek=1024 oflag=direct 2>/dev/null
			dd if=/dev/$disk bs=512k count=6 iflag=direct 2>/dev/null | cmp - /run/data
			dd if=/dev/$disk bs=4k skip=1024 count=20 iflag=direct 2>/dev/null |
				cmp -n 81920 - /run/data
		done
	END
}

# usage: is WHAT FOUND WANTED
is() { [[ $2 = "$3" ]] || die "$options: $1 is '$2', not '$3'"; }

# What the two ends have agreed on.
# usage: agreed VDEV RINGS ORDER PERSISTENT
agreed() {
	local disk front ring stats
	disk=vbd-$(xl domid front)-$1
	front=/local/domain/$(xl domid front)/device/vbd/$1
	stats=$(tap-ctl stats "$disk" --json)
	is "rings of $1" "$(jq .xen.rings <<<"$stats")" "$2"
	is "ring-page-order of $1" "$(jq .xen.ring_order <<<"$stats")" "$3"
	ring=$front
	(($2 == 1)) || ring+=/queue-$(($2 - 1))
	(($3 == 0)) || ring+=/ring-ref$(((1 << $3) - 1))
	(($3 > 0)) || ring+=/ring-ref
	xenstore-exists "$ring" || die "$options: no $ring"
	(($1 == 51744)) ||
		is "feature-persistent of $1" "$(xenstore-read "$front/feature-persistent")" "$4"
	is "requests of $1 that were refused" "$(jq .xen.rejected <<<"$stats")" 0
}

# usage: front_end RINGS ORDER SEGMENTS PERSISTENT [OPTION...]   (of module xen-blkfront)
front_end() {
	local rings=$1 order=$2 segments=$3 persistent=$4 options
	shift 4
	options=$*
	guest exec front <<<"modprobe -r xen-blkfront && modprobe xen-blkfront $options"
	xl block-attach front \
		"$(disk xvdb w aio:/store/all.img,queues=4,feature-persistent=on)"
	xl block-attach front "$(disk xvdc w "aio:/store/least.img,$least")"
	{
		cat <<-END
			set -e
			$(when "-b /dev/xvdb")
			$(when "-b /dev/xvdc")
			for disk in xvdb:$segments xvdc:11; do
				is=\$(cat /sys/block/\${disk%:*}/queue/max_segments)
				[ "\$is" = "\${disk#*:}" ] || { echo "$options: \$disk, not \$is"; exit 1; }
			done
		END
		try_both_disks
	} | guest exec front --timeout 200
	agreed 51728 "$rings" "$order" "$persistent"
	agreed 51744 1 0 0
	xl block-detach front xvdb
	xl block-detach front xvdc
	echo "${options:-no options}: $rings rings of 2^$order pages, $segments segments," \
		"persistent $persistent"
}

# With the kernels of guests that there are.
every_option_of_the_front_end_is_served() {
	local series least
	least=max-ring-page-order=0,multi-queue-max-queues=1,feature-max-indirect-segments=0
	least+=,feature-flush-cache=off,feature-barrier=off,feature-discard=off
	daemon_start
	truncate -s 16M /store/{all,least}.img
	for series in $LAB_KERNELS; do
		echo "Linux $series"
		start front --kernel "$series" --vcpus 2 --config 'cpus="1"' --timeout 300
		front_end 2 0 32 1
		front_end 2 0 11 1 max_indirect_segments=0
		front_end 2 0 256 1 max_indirect_segments=256
		front_end 1 4 32 1 max_ring_page_order=4 max_queues=1
		front_end 2 2 128 1 max_ring_page_order=2 max_indirect_segments=128
		front_end 2 0 32 0 feature_persistent=0
		front_end 2 0 32 1 trusted=0
		guest stop front
	done
	nothing_left
	ended_in_order
}
