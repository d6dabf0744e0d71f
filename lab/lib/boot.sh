# shellcheck shell=bash disable=SC2034,SC2154
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The host: QEMU runs Xen, Xen runs domain 0. QEMU works in the state folder
# with relative names only, since a socket's path may have 107 bytes at most.
#
#   qemu.pid serial.log serial.sock qemu.out   of this run
#   store.img                                  /store in domain 0
#   host/                                      /host in domain 0
#
# QEMU emulates; what that takes, and why each of these words is there, is in
# README.md under "Pitfalls".

xen_words='com1=115200,8n1 console=com1 loglvl=info guest_loglvl=warning dom0_max_vcpus=1 xsave=no spec-ctrl=no,eager-fpu xpti=no'
dom0_words='console=hvc0 panic=1 loglevel=4 nokaslr norandmaps mitigations=off'

lab_boot() {
	require qemu-system-x86_64 mkfs.ext4
	local start
	start=$(now_ms)
	lab_start
	if ! lab_wait_ready; then
		emulator_tripped || die_with_log
		say "domain 0 died in a way known of QEMU's emulation; starting once more"
		lab_stop
		lab_start
		lab_wait_ready || die_with_log
	fi
	say "ready in $(since "$start"): $(cat "$state/about")"
}

lab_start() {
	local dom0_memory=$((memory / 2))M disk_words=()
	[[ ! $disk ]] || disk_words=(-drive "if=none,id=disk,file=disk.img,format=raw,cache=unsafe"
		-device virtio-blk-pci,drive=disk)
	(
		cd "$state" || exit
		rm -f serial.log serial.sock qemu.pid qemu.out store.img host/ready
		rm -f host/jobs/*
		truncate -s "$store" store.img
		rm -f disk.img
		[[ ! $disk ]] || truncate -s "$disk" disk.img
		PATH=$PATH:/usr/sbin:/sbin mkfs.ext4 -q -L store -m 0 store.img
		setsid timeout "$lifetime" qemu-system-x86_64 \
			-accel tcg,thread=multi -cpu max,-smap,-rdtscp \
			-machine q35 -smp "$cpus" -m "$memory" \
			-nodefaults -display none -no-reboot -pidfile qemu.pid \
			-kernel xen -append "$xen_words dom0_mem=$dom0_memory,max:$dom0_memory" \
			-initrd "vmlinux $dom0_words $append,dom0.cpio" \
			-drive if=none,id=store,file=store.img,format=raw,cache=unsafe,discard=unmap \
			-device virtio-blk-pci,drive=store "${disk_words[@]}" \
			-fsdev local,id=host,path=host,security_model=none \
			-device virtio-9p-pci,fsdev=host,mount_tag=host \
			-chardev socket,id=serial,path=serial.sock,server=on,wait=off,logfile=serial.log \
			-serial chardev:serial </dev/null >qemu.out 2>&1 &
	)
}

lab_wait_ready() {
	local end=$((SECONDS + wait))
	# QEMU writes its pid file early on; until then there is nothing to watch. (The file is
	# there a moment before the number is.)
	while [[ ! -s $state/qemu.pid ]]; do
		((SECONDS < end)) && [[ ! -s $state/qemu.out ]] || return 1
		sleep 0.1
	done
	until [[ -e $state/host/ready ]]; do
		((SECONDS < end)) && lab_alive || return 1
		sleep 0.2
	done
}

# Does our QEMU run? (The pid alone does not say: it may be another's by now.)
lab_alive() {
	local pid
	pid=$(cat "$state/qemu.pid" 2>/dev/null) || return 1
	[[ $(readlink -f "/proc/$pid/cwd") = "$(readlink -f "$state")" ]] &&
		grep -qa qemu-system "/proc/$pid/cmdline" 2>/dev/null
}

# Under QEMU's emulation a kernel that patches its own code can trip over it.
emulator_tripped() {
	grep -qE 'int3:|Oops: int3|static_call|text_poke|Unhandled: vec|triple fault' \
		"$state/serial.log" 2>/dev/null
}

lab_status() {
	lab_alive || { say "no lab runs in $state"; return 1; }
	say "$(cat "$state/about"); pid $(cat "$state/qemu.pid"), state in $state"
}

lab_log() {
	tr -d '\r' <"$state/serial.log" 2>/dev/null || die "no log in $state"
}

lab_stop() {
	local pid end=$((SECONDS + 10))
	lab_alive || { rm -f "$state/qemu.pid"; return 0; }
	pid=$(cat "$state/qemu.pid")
	kill "$pid"
	while lab_alive; do
		((SECONDS < end)) || { kill -KILL "$pid"; break; }
		sleep 0.1
	done
	rm -f "$state/qemu.pid"
}

die_with_log() {
	local why="domain 0 died before it was ready"
	! lab_alive || why="domain 0 was not ready after $wait s"
	{
		echo "--- the end of $state/serial.log"
		cat "$state/qemu.out"
		tail -n 15 "$state/serial.log" | tr -d '\r'
		echo "---"
	} >&2
	lab_stop
	die "$why"
}
