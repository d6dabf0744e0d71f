#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Runs in domain 0 of the lab.
#
#   dom0.sh XEN SECONDS prepare              images, and memory as all peers have it
#   dom0.sh XEN SECONDS one BACKEND PHASE... one run: its lines go to standard output
#   dom0.sh XEN SECONDS many GUESTS DISKS    guests with that many raw disks of ours each
#
# XEN is Xen's version, SECONDS how long each random phase takes.
#
# A backend serves xvda of a guest that is started for this run; "native" is the plain
# disk, mounted here, by processes that may use as much memory as the guest has free.
# All have one processor, and domain 0 the other one. Its page cache is small, and
# empty when a phase begins.
set -eu
image=512 guest_memory=192 bonnie=192 bonnie_ram=96
spare=220 # MiB of memory that domain 0 has left
xen=$1 seconds=$2 verb=$3
shift 3

drop_caches() {
	sync
	echo 3 >/proc/sys/vm/drop_caches
}

available() { awk '/MemAvailable/ { print int($2 / 1024) }' /proc/meminfo; }

guest() {
	case $1 in
	start) command guest "$@" --memory $guest_memory --config 'cpus = "1"' ;;
	*) command guest "$@" ;;
	esac
}

# Every block is written: nobody measures the allocation of the files below.
prepare() {
	local hog
	xl vcpu-pin Domain-0 all 0
	setsid blktapctrl --foreground >/host/blktapctrl.log 2>&1 </dev/null &
	head -c "${image}M" /dev/zero | tr '\0' x | dd of=/store/raw bs=1M iflag=fullblock \
		oflag=direct status=none
	dd if=/store/raw of=/dev/vdb bs=1M oflag=direct status=none
	tap-img convert -f raw -O qcow /store/raw /store/qcow
	tap-img convert -f raw -O qcow2 /store/raw /store/qcow2
	guest start probe
	guest exec probe <<<"awk '/MemAvailable/ { print int(\$2 / 1024) }' /proc/meminfo" \
		>/run/guest-memory
	guest kill probe
	echo "a guest has $(cat /run/guest-memory) MiB free"
	mkdir -p /hog /sys/fs/cgroup/native
	mount -t tmpfs -o size=90% hog /hog
	hog=$(($(available) - spare))
	((hog <= 0)) || head -c "${hog}M" /dev/zero | tr '\0' x >/hog/memory
	echo "$(cat /run/guest-memory)M" >/sys/fs/cgroup/native/memory.max
	echo "domain 0 has $(available) MiB free"
}

# usage: ours VDEV TARGET   (a disk of tapdisk's, as this xl takes it)
ours() {
	if [[ $xen = 4.17 ]]; then
		echo "script=block-tap,vdev=$1,access=w,target=$2"
	else
		echo "backendtype=tap,format=raw,vdev=$1,access=w,target=$2"
	fi
}

# Prints the disk as xl takes it; makes what it needs.
disk_of() {
	case $1 in
	blkback) echo "phy:/dev/vdb,xvda,w" ;;
	loop) echo "phy:$(losetup -f --show /store/raw),xvda,w" ;;
	loop-direct) echo "phy:$(losetup -f --show --direct-io=on /store/raw),xvda,w" ;;
	qdisk-raw) echo "format=raw,vdev=xvda,access=rw,backendtype=qdisk,target=/store/raw" ;;
	qdisk-qcow2) echo "format=qcow2,vdev=xvda,access=rw,backendtype=qdisk,target=/store/qcow2" ;;
	raw) ours xvda aio:/store/raw ;;
	raw-*) ours xvda "aio:/store/raw,data=${1#raw-}" ;;
	qcow | qcow2) ours xvda "$1:/store/$1" ;;
	qcow-new)
		qcow-create "${image}M" /store/new.img >/dev/null
		ours xvda qcow:/store/new.img
		;;
	qcow2-overlay)
		tap-img create -q -f qcow2 -b /store/raw -F raw /store/new.img
		ours xvda qcow2:/store/new.img
		;;
	ram) ours xvda "ram:bench,size=${image}M" ;;
	*) echo "no back end $1" >&2; return 2 ;;
	esac
}

# usage: on WHERE SCRIPT-WORDS...   (disk.sh there)
on() {
	local where=$1
	shift
	if [[ $where = native ]]; then
		(echo $BASHPID >/sys/fs/cgroup/native/cgroup.procs; exec disk.sh /dev/vdb "$@")
	else
		guest exec bench --timeout 200 <<<"disk.sh /dev/xvda $*"
	fi
}

one() {
	local where=$1 phase sampler
	shift
	randio busy >/run/busy &
	sampler=$!
	[[ $where = native ]] || guest start bench "$(disk_of "$where")"
	on "$where" make
	for phase in "$@"; do
		drop_caches
		case $phase in
		random) on "$where" random "$seconds" 1 16 32 ;;
		bonnie) on "$where" bonnie $bonnie $bonnie_ram ;;
		esac
	done
	on "$where" end
	[[ $where = native ]] || guest stop bench
	kill $sampler
	sed 's/^/busy /' /run/busy
}

end() {
	((!$?)) || tail -n 5 /var/log/xen/qemu-dm-bench.log /host/blktapctrl.log 2>/dev/null
	guest kill bench 2>/dev/null || true
	umount /mnt/bench 2>/dev/null || true
	losetup -D
	rm -f /store/new.img
}

# Resident MiB and busy seconds of all tapdisks, idle and with every disk at work.
many() {
	local guests=$1 disks=$2 g d list pids=() letters=({a..p}) sampler
	rm -rf /hog/*
	randio busy >/run/busy &
	sampler=$!
	for ((g = 0; g < guests; g++)); do
		list=()
		for ((d = 0; d < disks; d++)); do
			truncate -s 32M "/store/many.$g.$d"
			list+=("$(ours "xvd${letters[d]}" "aio:/store/many.$g.$d")")
		done
		command guest start "many$g" --memory 128 "${list[@]}"
	done
	echo "many $guests $disks resident $(resident)"
	for ((g = 0; g < guests; g++)); do
		command guest exec "many$g" --timeout 100 <<-END &
			for disk in /dev/xvd?; do
				randio write \$disk 32 4 $seconds | sed "s/^/many /" &
			done
			wait
		END
		pids+=($!)
	done
	for g in "${pids[@]}"; do
		wait "$g"
	done
	echo "many $guests $disks worked $(resident)"
	for ((g = 0; g < guests; g++)); do
		command guest kill "many$g"
	done
	kill $sampler
	sed 's/^/busy /' /run/busy
	rm -f /store/many.*
}

resident() {
	local kib=0 pid
	for pid in $(pgrep -x tapdisk); do
		kib=$((kib + $(awk '/VmRSS/ { print $2 }' "/proc/$pid/status")))
	done
	echo $kib
}

case $verb in
prepare) prepare ;;
one)
	trap end EXIT
	one "$@"
	;;
many) many "$@" ;;
esac
