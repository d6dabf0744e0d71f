# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Cases of lab-dom0.sh: what else a toolstack does with a guest's disk than attach and
# detach it, and what is left when a guest ends at the wrong moment.

# usage: load DEVICE | guest exec NAME   (written to until /run/stop is there; what was
# written is read again, and /run/failed says what was wrong; /run/rounds has a byte for
# each time: a number in a file would not be there while it is written anew)
load() {
	cat <<-END
		$(when "-b /dev/$1") || exit
		rm -f /run/stop /run/failed /run/rounds
		(i=0; while [ ! -e /run/stop ]; do
			dd if=/dev/urandom of=/run/block bs=64k count=1 2>/dev/null
			at=\$((i % 16))
			dd if=/run/block of=/dev/$1 bs=64k seek=\$at oflag=direct conv=notrunc 2>/dev/null &&
				dd if=/dev/$1 of=/run/again bs=64k skip=\$at count=1 iflag=direct 2>/dev/null &&
				cmp /run/block /run/again >/dev/null 2>&1 || { echo "\$i" >/run/failed; break; }
			i=\$((i + 1)); echo >>/run/rounds
		done) </dev/null >/dev/null 2>&1 &
		$(when "-e /run/rounds")
	END
}

# usage: went_on NAME   (and its load has come to its end)
went_on() {
	guest exec "$1" <<-'END'
		a=$(wc -c </run/rounds)
		for n in $(seq 40); do
			sleep 0.5
			b=$(wc -c </run/rounds)
			[ "$b" -le "$a" ] || break
		done
		touch /run/stop
		[ ! -e /run/failed ] || { echo "failed at $(cat /run/failed)"; exit 1; }
		[ "$b" -gt "$a" ] || { echo "it stands still at $a"; exit 1; }
	END
}

# Event channels of domain 0.
ports() { /usr/lib/xen-"$xen"/bin/lsevtchn 0 | wc -l; }

ports_are_counted() { ports >/run/ports; }

no_port_is_left() {
	local before
	before=$(cat /run/ports)
	for ((i = 0; i < 150; i++)); do
		[[ $(ports) -gt $before ]] || return 0
		sleep 0.2
	done
	/usr/lib/xen-"$xen"/bin/lsevtchn 0
	die "$(ports) event channels, and $before before"
}

# What the guest has not written yet is in its memory, and some of it on the way.
a_guest_is_saved_and_restored() {
	local before
	guest exec two <<-'END'
		mkfs.ext4 -q -F /dev/xvda
		mount /dev/xvda /mnt
		dd if=/dev/urandom of=/run/data bs=64k count=32 2>/dev/null
	END
	xl block-attach two "$(disk xvdc w aio:/store/c.img)"
	load xvdc | guest exec two
	guest exec two <<<'cp /run/data /mnt/data'
	xl pause two
	xl list two | grep -qE ' [r-][b-]p' || die "not paused: $(xl list two)"
	xl unpause two
	before=$(xl domid two)
	xl save two /store/two.save
	! pgrep -f 'tapdisk.*[bc].img' || die "a saved guest's tapdisk stays"
	xl restore /store/two.save
	[[ $(xl domid two) != "$before" ]]
	[[ $(xl block-list two | wc -l) = 3 ]]
	went_on two
	guest exec two <<-'END'
		sync
		echo 3 >/proc/sys/vm/drop_caches
		cmp /run/data /mnt/data && umount /mnt && e2fsck -fn /dev/xvda
	END
	rm /store/two.save
	xl block-detach two xvdc
}

# To the same host: where it goes its disks are opened once they are closed here. It is
# no PV guest, since Debian's Xen cannot tell which pages of one have been written.
a_guest_migrates_with_its_disks() {
	local before
	trap 'xl destroy mover 2>/dev/null' EXIT
	start mover --type pvh --kernel 6.12 --timeout 200 "$(disk xvda w qcow:/store/e.qcow)" \
		"$(disk xvdc w aio:/store/c.img)"
	before=$(xl domid mover)
	guest exec mover <<-'END'
		mkfs.ext4 -q -F /dev/xvda && mount /dev/xvda /mnt
		dd if=/dev/urandom of=/run/data bs=64k count=32 2>/dev/null
		cp /run/data /mnt/data
	END
	load xvdc | guest exec mover
	xl migrate -s '' mover 'xl migrate-receive'
	# xenconsoled knows it by the name that it had on its way
	ln -f /var/log/xen/console/guest-mover--incoming.log /var/log/xen/console/guest-mover.log
	[[ $(xl domid mover) != "$before" ]]
	went_on mover
	guest exec mover <<-'END'
		sync
		echo 3 >/proc/sys/vm/drop_caches
		cmp /run/data /mnt/data && umount /mnt && e2fsck -fn /dev/xvda
	END
	[[ $(pgrep -cf 'tapdisk.*[ce].(img|qcow)') = 2 ]] || die "$(pgrep -af tapdisk)"
	! pgrep -af 'tapdisk.*--peek' || die "it only looks"
}

a_disk_is_detached_under_load() {
	xl block-attach "$1" "$(disk xvdc w aio:/store/c.img)"
	load xvdc | guest exec "$1"
	xl block-detach "$1" xvdc
	! pgrep -f 'tapdisk.*c.img' || die "its tapdisk stays"
	guest exec "$1" <<<'dd if=/dev/xvda of=/dev/null bs=64k count=4 iflag=direct'
}

# A driver domain: it has the image, and serves it to another guest.
a_guest_is_served_by_another() {
	local back where
	truncate -s 128M /store/driver.img
	guest start driver --kernel driver --memory 640 --config 'driver_domain=1' \
		"phy:$(losetup -f --show /store/driver.img),xvda,w"
	guest exec driver <<-'END'
		set -e
		mkdir -p /srv /var/log/xen /var/lib/xen /run/xen /run/lock /run/xen-hotplug
		[ -e /var/run ] || ln -s /run /var/run
		[ -e /var/lock ] || ln -s /run/lock /var/lock
		mount -t xenfs xenfs /proc/xen
		mkfs.ext4 -q -F /dev/xvda
		mount /dev/xvda /srv
		truncate -s 32M /srv/d.img
		PATH=/usr/local/sbin:/usr/local/bin:$PATH
		setsid blktapctrl --foreground >/run/blktapctrl.log 2>&1 </dev/null &
		setsid xl devd -F >/run/devd.log 2>&1 </dev/null &
		for n in 1 2 3 4 5 6 7 8 9 10; do tap-ctl list >/dev/null 2>&1 && exit; sleep 0.5; done
		cat /run/blktapctrl.log
		exit 1
	END
	where=$(pgrep -c tapdisk || true)
	guest start three "backend=driver,$(disk xvda w aio:/srv/d.img)"
	file_system xvda | guest exec three
	[[ $(pgrep -c tapdisk) = "$where" ]] || die "domain 0 serves it"
	guest exec driver <<<'pgrep -f tapdisk.*/srv/d.img'
	back=/local/domain/$(xl domid driver)/backend/$(kind)/$(xl domid three)/51712
	[[ $(xenstore-read "$back/state") = 4 ]]
	guest stop three
	guest exec driver <<-'END'
		for n in 1 2 3 4 5 6 7 8 9 10; do pgrep -x tapdisk >/dev/null || exit 0; sleep 0.5; done
		cat /run/blktapctrl.log /run/devd.log
		exit 1
	END
	guest stop driver
}
