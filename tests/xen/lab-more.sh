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
		$(when_there -b /dev/xvda)
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
