# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Cases for the lab (lab-dom0.sh reads this file): one RAM disk, written by two
# guests at the same time, both of which have mounted OCFS2 on it.
#
#   guest one --- vif --- bridge lab0 --- vif --- guest two     o2cb: who has which lock
#       |                                            |
#   tapdisk ---------- memory "shared" ---------- tapdisk       the disk, and heartbeats
#                   (held by blktapctrl)
#
# Ten heartbeats of two seconds without a sign of a guest, and it is dead; a guest that
# cannot write its own for as long gives itself up.

# usage: ram_disk OPTIONS   (as xvdf)
ram_disk() { disk xvdf w "ram:shared,shared=on$1"; }

two_guests_get_a_network() {
	modprobe -a bridge xen-netback
	brctl addbr lab0
	ip link set lab0 up
	xl network-attach one bridge=lab0
	xl network-attach two bridge=lab0
}

two_guests_attach_one_ram_disk() {
	xl block-attach one "$(ram_disk ,size=128M)"
	xl block-attach two "$(ram_disk '')"
	guest exec one <<<"$(when "-b /dev/xvdf")"'
		head -c 65536 /dev/urandom >/run/block
		dd if=/run/block of=/dev/xvdf bs=64k seek=100 oflag=direct status=none'
	[[ $(guest exec one <<<'md5sum </run/block') = $(guest exec two <<<"$(when "-b /dev/xvdf")"'
		dd if=/dev/xvdf bs=64k skip=100 count=1 iflag=direct status=none | md5sum') ]]
	[[ $(tap-ctl ram-list | grep -c '^shared ') = 1 ]]
}

# usage: guest_address NUMBER   (a script for a guest)
guest_address() {
	cat <<-END
		set -e
		modprobe xen-netfront
		$(when "-e /sys/class/net/eth0")
		ip addr add 10.7.0.$1/24 dev eth0
		ip link set eth0 up
	END
}

# usage: node NUMBER   (a script for a guest: it joins the cluster as that node)
node() {
	guest_address "$1"
	cat <<-END
		modprobe -a ocfs2_stack_o2cb ocfs2
		mount -t configfs configfs /sys/kernel/config
		echo o2cb >/sys/fs/ocfs2/cluster_stack
		cluster=/sys/kernel/config/cluster/lab
		mkdir \$cluster
		echo 11 >\$cluster/heartbeat/dead_threshold
		for number in 1 2; do
			node=\$cluster/node/node\$number
			mkdir \$node
			echo 7777 >\$node/ipv4_port
			echo 10.7.0.\$number >\$node/ipv4_address
			echo \$number >\$node/num
		done
		echo 1 >\$cluster/node/node$1/local
	END
}

both_guests_mount_ocfs2() {
	node 2 | guest exec two &
	{
		node 1
		echo 'mkfs.ocfs2 -q -b 4K -C 4K -N 2 -J size=4M -L shared /dev/xvdf
			mount.ocfs2 /dev/xvdf /mnt'
	} | guest exec one
	wait $!
	guest exec two <<<'mount.ocfs2 /dev/xvdf /mnt'
}

# usage: write_files NAME   (a script for a guest: files in its folder, and their sums)
write_files() {
	cat <<-END
		set -e
		mkdir /mnt/$1
		for ((i = 0; i < 4; i++)); do
			head -c \$((RANDOM * 8)) /dev/urandom >/mnt/$1/\$i
		done
		(cd /mnt/$1 && md5sum [0-9] >sums)
		echo $1 >>/mnt/together
	END
}

# Both write at the same time, in folders of their own and to one file.
both_guests_see_what_the_other_writes() {
	write_files one | guest exec one &
	write_files two | guest exec two
	wait $!
	guest exec one <<<'cd /mnt/two && md5sum --quiet -c sums'
	guest exec two <<<'cd /mnt/one && md5sum --quiet -c sums'
	[[ $(guest exec two <<<'sort /mnt/together') = one$'\n'two ]]
}

# With -n, fsck.ocfs2 goes on after what it finds, and succeeds.
# usage: clean FILE [OPTION...]
clean() {
	local file=$1 said
	shift
	said=$(echo y | fsck.ocfs2 -f -n "$@" "$file")
	[[ $said = *'All passes succeeded'* ]] || die "$said"
	! grep -E '^\[[A-Z0-9_]+\]|journal replay' <<<"$said" || die "$said"
}

a_ram_disk_is_saved_while_it_is_used() {
	guest exec one <<<'sync /mnt/one/sums; sync -f /mnt'
	guest exec two <<<'sync -f /mnt'
	tap-ctl ram-save shared qcow2:/store/shared.qcow2
	qemu-img convert -O raw /store/shared.qcow2 /store/shared.img
	echo y | fsck.ocfs2 -F -f -y /store/shared.img # replays the journals, which are in use
	clean /store/shared.img -F
	! tap-ctl ram-load shared qcow2:/store/shared.qcow2 2>/run/why || die "loaded under guests"
	grep -q 'domain' /run/why
	rm /store/shared.{qcow2,img}
}

# It had written what nobody else has seen on disk yet: its journal is replayed.
one_guest_is_destroyed_and_the_other_goes_on() {
	guest exec one <<-'END'
		cp -r /mnt/one /mnt/last
		sync -f /mnt
		(while :; do head -c 65536 /dev/urandom >>/mnt/endless; done) </dev/null >/dev/null 2>&1 &
	END
	xl destroy one
	guest exec two --timeout 90 <<-'END'
		set -e
		(cd /mnt/last && md5sum --quiet -c sums)
		mkdir /mnt/after
		cp /mnt/two/* /mnt/last/* /mnt/after
		rm -f /mnt/endless
		(cd /mnt/after && md5sum --quiet -c sums)
		dmesg | grep 'eplay journal (node 1'
	END
}

ocfs2_is_clean_after_all() {
	{
		echo 'umount /mnt || exit'
		declare -f clean die
		echo 'clean /dev/xvdf'
	} | guest exec two
	xl block-detach two xvdf
	! tap-ctl ram-list | grep '^shared ' || die "the memory stays"
}

# ---- beside NFS (make bench-ocfs2) -------------------------------------------------

# What a package of the distribution would do, for one client and one folder: its flags
# are fsid=0, no_subtree_check, insecure and, as is usual, sync.
# usage: nfs_server DEVICE   (a script for guest two)
nfs_server() {
	cat <<-END
		set -e
		modprobe nfsd
		mkfs.ext4 -q -F $1
		mkdir -p /export
		mount $1 /export
		mount -t nfsd nfsd /proc/fs/nfsd
		cd /proc/net/rpc
		echo 'nfsd 10.7.0.1 2147483647 lab' >auth.unix.ip/channel
		echo 'lab /export 2147483647 9218 65534 65534 0' >nfsd.export/channel
		echo 'lab 1 \\x00000000 2147483647 /export' >nfsd.fh/channel
		ip link set lo up
		echo -3 >/proc/fs/nfsd/versions # which would need rpcbind
		echo 10 >/proc/fs/nfsd/nfsv4gracetime
		echo 'tcp 2049' >/proc/fs/nfsd/portlist
		echo 4 >/proc/fs/nfsd/threads
		sleep 11 # until then nobody can open a file
	END
}

# usage: measure FOLDER   (a script for a guest; prints four numbers)
measure() {
	cat <<-END
		set -e
		cd $1
		# usage: rate HOW-MANY COMMAND...   (of them in a second)
		rate() {
			local count=\$1 start=\${EPOCHREALTIME/./}
			shift
			"\$@" 2>/dev/null
			echo -n "\$((count * 1000000 / (\${EPOCHREALTIME/./} - start))) "
		}
		files() {
			for ((i = 0; i < 100; i++)); do
				echo \$i >small.\$i
			done
		}
		rate 32768 dd if=/dev/zero of=large bs=1M count=32 conv=fsync
		echo 3 >/proc/sys/vm/drop_caches
		rate 32768 dd if=large of=/dev/null bs=1M
		rate 200 dd if=/dev/zero of=large bs=4k count=200 oflag=direct conv=notrunc
		rate 100 files
		echo
		rm large small.*
	END
}

ocfs2_beside_nfs() {
	modprobe -a bridge xen-netback
	daemon_start
	start one --kernel 6.12 "$(disk xvda w ram:unused,size=1M)"
	start two --kernel 6.12 "$(disk xvda w ram:server,size=128M)"
	two_guests_get_a_network
	two_guests_attach_one_ram_disk
	both_guests_mount_ocfs2
	nfs_server /dev/xvda | guest exec two
	guest exec one <<<'modprobe nfsv4; mkdir /nfs && mount -t nfs4 -o vers=4.2 10.7.0.2:/ /nfs'
	echo "         write KiB/s, read KiB/s, 4 KiB direct writes/s, small files/s"
	for ((round = 0; round < 5; round++)); do
		echo "OCFS2: $(measure /mnt | guest exec one)"
		echo "NFS:   $(measure /nfs | guest exec one)"
	done
	xl destroy one
	xl destroy two
}
