# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Cases of lab-dom0.sh: HVM guests, which boot from a disk that QEMU emulates before their
# own driver has it. QEMU reads and writes the image by NBD, at a socket of our tapdisk.

# usage: hvm_disk VDEV MODE TARGET   (as this xl takes it; QEMU is told where the disk is
# only of disks that have a script)
hvm_disk() {
	local line
	line=$(disk "$@")
	[[ $line = script=* ]] || line=script=block-tap,$line
	echo "$line"
}

# usage: emulated DISK COUNT   (so many QEMUs read and write it by NBD now)
emulated() { [[ $(tap-ctl info "$1" --json | jq '.nbd[0].connections') = "$2" ]]; }

# usage: boot_sector_is_there RAW   (boot-sector.S says what it does with what it finds)
boot_sector_is_there() {
	head -c 4096 /dev/urandom >/run/pattern
	{
		cat /host/boot-sector
		head -c 3584 /dev/zero
		cat /run/pattern
	} >"$1"
	truncate -s 4M "$1"
}

inverted() {
	LC_ALL=C tr "$(printf '\\%03o' {0..255})" "$(printf '\\%03o' {255..0})"
}

# The disk is a qcow, of which this QEMU knows nothing.
a_guest_without_a_driver_boots_from_tapdisk() {
	local disk socket
	trap 'xl destroy bios 2>/dev/null || true' EXIT
	boot_sector_is_there /store/boot.raw
	qemu-img convert -f raw -O qcow /store/boot.raw /store/boot.qcow
	printf '%s\n' 'name="bios"' 'type="hvm"' 'memory=32' 'vga="none"' 'vnc=0' \
		'serial="file:/run/bios.serial"' 'on_poweroff="destroy"' \
		"disk=['$(hvm_disk xvda w qcow:/store/boot.qcow)']" >/run/bios.cfg
	xl create -q /run/bios.cfg
	disk=vbd-$(xl domid bios)-51712
	socket=/run/blktap/tapdisk/$disk.nbd
	[[ $(stat -c %a "$socket") = 600 ]]
	soon 150 grep -qE 'same|differs|failed' /run/bios.serial
	cat /run/bios.serial
	grep -q 'boot sector: the same' /run/bios.serial
	emulated "$disk" 1
	kill -9 "$(xenstore-read "/local/domain/$(xl domid bios)/image/device-model-pid")"
	soon 30 emulated "$disk" 0
	xl destroy bios
	soon 30 test ! -e "$socket" # its disk is closed
	qemu-img convert -f qcow -O raw /store/boot.qcow /store/boot.raw
	inverted </run/pattern | cmp - <(tail -c +8193 /store/boot.raw | head -c 4096)
}

# Of its disks one cannot be emulated: IDE disks are written.
an_hvm_guests_own_driver_takes_over() {
	local starting socket disk
	trap 'xl destroy hvm 2>/dev/null || true' EXIT
	start hvm --type hvm --kernel 6.12 --timeout 200 "$(hvm_disk xvda w qcow:/store/e.qcow)" \
		"$(hvm_disk xvdb r aio:/store/d.img)" &
	starting=$!
	soon 150 compgen -G '/run/blktap/tapdisk/*.nbd'
	socket=$(compgen -G '/run/blktap/tapdisk/*.nbd')
	disk=$(basename "$socket" .nbd)
	soon 150 emulated "$disk" 1
	wait "$starting"
	emulated "$disk" 0
	tap-ctl stats "$disk" --json | jq -e '.xen.rings >= 1'
	file_system xvda | guest exec hvm
	xl block-attach hvm "$(disk xvdc w aio:/store/c.img)"
	[[ $(compgen -G '/run/blktap/tapdisk/*.nbd') = "$socket" ]]
	{
		echo 'set -e'
		when "-b /dev/xvdc"
		echo '[ "$(cat /sys/block/xvdb/ro)" = 1 ]'
		echo 'tr "\0" x </dev/zero | dd of=/dev/xvda bs=4k count=1 oflag=direct iflag=fullblock'
	} | guest exec hvm
	xl block-detach hvm xvdc
	guest stop hvm
	soon 30 test ! -e "$socket" # its disk is closed
	qemu-img convert -f qcow -O raw /store/e.qcow /store/e.raw
	[[ $(head -c 4096 /store/e.raw) =~ ^x{4096}$ ]]
}
