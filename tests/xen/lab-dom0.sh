#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Runs in domain 0 of the lab:
#
#   lab-dom0.sh XEN          all cases, in order; says how long each took
#   lab-dom0.sh XEN CASE...  these, in this shell
#
# Each case is a function. What it needs of those before it lies in files; what
# it printed is shown if it failed, with what domain 0 was doing by then. Ends
# with 1 if a case failed, and with 99 if that may be the emulator's doing.
set -u
xen=$1
shift
log=/host/blktapctrl.log
failed=0
self=/local/domain/0

# A process of its own, so that a case that hangs is over when its time is.
# usage: try [SECONDS] CASE [WORD...]
try() {
	local limit=300 start=$EPOCHREALTIME out code ms
	[[ $1 != [0-9]* ]] || { limit=$1; shift; }
	out=$(timeout -k 5 "$limit" bash "$0" "$xen" "$@" 2>&1)
	code=$?
	ms=$(((${EPOCHREALTIME/./} - ${start/./}) / 1000))
	if ((code == 0)); then
		printf 'ok   %-44s %d.%d s\n' "$1" $((ms / 1000)) $((ms % 1000 / 100))
	else
		printf 'FAIL %-44s %d.%d s, code %d\n%s\n' "$*" $((ms / 1000)) \
			$((ms % 1000 / 100)) "$code" "$out"
		what_happens | sed 's/^/     | /'
		failed=$((failed + 1))
		((code != 124)) || { echo "given up: it hung"; exit 99; }
	fi
}

# Asks nobody for longer than a moment: who is asked may be what stands still.
what_happens() {
	timeout -k 1 5 xl list || echo "xl list does not answer"
	ps -eo pid,stat,wchan:20,args | grep -E '[t]ap|[x]l |[g]uest |[x]enstore'
	dmesg | tail -n 12
	for name in one two mover; do
		timeout -k 1 5 guest log "$name" 2>/dev/null | tail -n 5
	done
}

die() {
	echo "$*"
	exit 1
}

# usage: soon SECONDS COMMAND...   (until it succeeds)
soon() {
	local tenths=$(($1 * 10))
	shift
	until "$@" >/dev/null 2>&1; do
		((tenths-- > 0)) || die "not in time: $*"
		sleep 0.1
	done
}

# usage: disk VDEV MODE TARGET   (as this xl takes it)
disk() {
	if [[ $xen = 4.17 ]]; then
		echo "script=block-tap,vdev=$1,access=$2,target=$3"
	else
		echo "backendtype=tap,format=raw,vdev=$1,access=$2,target=$3"
	fi
}

kind() { [[ $xen = 4.17 ]] && echo vbd || echo vbd3; }

daemon_start() {
	setsid blktapctrl --foreground >>"$log" 2>&1 </dev/null &
	soon 30 tap-ctl list
}

daemon_pid() { cat /run/blktap/blktapctrl.pid; }

# xl does not wait until the guest has what it attached. Who writes to /dev/xvdc before,
# makes a file of that name: and that cannot be opened with O_DIRECT (invalid argument).
# usage: when TEST   (a line for a script: waits until "[ TEST ]" holds)
when() {
	echo "for ((n = 0; n < 120; n++)); do [ $1 ] && break; sleep 0.5; done; [ $1 ]"
}

# A file system made, filled, read back after its cache is gone, and checked.
# A sum counts when it comes out twice alike: emulated processors have been seen to
# miscount, on xen-blkback's disks too. Both are of the cache, which is read once.
# usage: file_system DEVICE   (a script for a shell in the guest or here)
file_system() {
	cat <<-END
		set -e
		$(when "-b /dev/$1")
		sum() {
			local one two=
			until [ "\$two" ] && [ "\$one" = "\$two" ]; do
				one=\$(md5sum <"\$1")
				two=\$(md5sum <"\$1")
			done
			echo "\$one"
		}
		mkfs.ext4 -q -F /dev/$1
		mount /dev/$1 /mnt
		dd if=/dev/urandom of=/mnt/data bs=1M count=4 conv=fsync status=none
		cp /mnt/data /mnt/copy
		cmp /mnt/data /mnt/copy
		before=\$(sum /mnt/data)
		umount /mnt
		echo 3 >/proc/sys/vm/drop_caches
		mount /dev/$1 /mnt
		for file in data copy; do
			[ "\$(sum /mnt/\$file)" = "\$before" ] || { echo "\$file is not what it was"; exit 9; }
		done
		rm /mnt/copy
		fstrim /mnt 2>/dev/null || true
		umount /mnt
		e2fsck -fn /dev/$1
	END
}

# What is left of disks: nodes, processes, sockets, cgroups. Prints it.
leftovers() {
	xenstore-ls -f "$self/backend" | grep -E '/backend/vbd3?/[0-9]+/[0-9]+ = ' || true
	xenstore-ls -f /libxl | grep -E '/device/vbd/[0-9]+ = ' || true
	pgrep -a tapdisk || true
	find /run/blktap/tapdisk -type s 2>/dev/null || true
	find /sys/fs/cgroup/blktap -mindepth 1 -type d 2>/dev/null || true
	find /tmp -name 'tap-xl.*'
}

nothing_left() {
	local what
	for ((i = 0; i < 150; i++)); do
		what=$(leftovers)
		[[ $what ]] || return 0
		sleep 0.1
	done
	die "left: $what"
}

# A domain whose grants somebody still maps stays, without a name.
no_zombies() {
	soon 30 bash -c "! xl list | grep -q '(null)'"
}

# shellcheck source=lab-xl.sh
. "$(dirname "$0")/lab-xl.sh"
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lab-hvm.sh"

# ---- cases ----------------------------------------------------------------------

the_script_says_that_no_daemon_runs() {
	local path=$self/backend/vbd/999/51712 out
	xenstore-write $path/state 2
	! out=$(XENBUS_PATH=backend/vbd/999/51712 /etc/xen/scripts/block-tap add 2>&1) ||
		die "succeeded"
	[[ $(xenstore-read $path/hotplug-error) = *'blktapctrl does not run'* ]]
	xenstore-rm $self/backend/vbd/999
}

images_are_made() {
	truncate -s 32M /store/{b,c,d,p,phy}.img
	qemu-img create -q -f qcow /store/a.qcow 32M
	qemu-img create -q -f qcow /store/e.qcow 32M
	phy=$(losetup -f --show /store/phy.img)
	echo "$phy" >/run/phy
}

# xl itself dies in the emulator at times: once more, then.
start() {
	guest start "$@" && return
	guest kill "$1" || true
	guest start "$@"
}

# How many rings, and processors, guest two has. Where the host has one processor, a second
# one makes the guest's kernel spin: it takes twice as long to start.
rings() { [[ $xen = 4.17 ]] && echo 1 || echo 2; }

# A qcow of 2006's kind beside one of xen-blkback's disks, and a raw one.
two_guests_start() {
	local phy one two
	phy=$(cat /run/phy)
	start one --kernel 6.1 "$(disk xvda w qcow:/store/a.qcow)" "phy:$phy,xvdb,w" &
	one=$!
	start two --kernel 6.12 --append xen_blkfront.max_ring_page_order=2 \
		--vcpus "$(rings)" \
		"$(disk xvda w "aio:/store/b.img,queues=$(rings)")" &
	two=$!
	wait "$one"
	wait "$two"
	[[ $(xl block-list one | wc -l) = 3 ]]
}

a_guest_with_6.1_keeps_its_files_on_qcow() { file_system xvda | guest exec one; }
a_guest_with_6.12_keeps_its_files_on_aio() { file_system xvda | guest exec two; }

# Of a file that is sparse where the guest has nothing.
what_a_guest_discards_is_given_back() {
	local full
	guest exec two <<-'END'
		set -e
		mount /dev/xvda /mnt
		dd if=/dev/urandom of=/mnt/waste bs=1M count=8 conv=fsync status=none
	END
	full=$(stat -c %b /store/b.img)
	guest exec two <<-'END'
		set -e
		rm /mnt/waste
		sync
		fstrim /mnt
		umount /mnt
	END
	(($(stat -c %b /store/b.img) + 12288 < full)) ||
		die "$full blocks were $(stat -c %b /store/b.img) after fstrim"
	tap-ctl stats "vbd-$(xl domid two)-51712" --json |
		jq -e '.discard.requests > 0 and .discard.errors == 0'
}

rings_of_four_pages_are_used() {
	local front
	front=/local/domain/$(xl domid two)/device/vbd/51712
	[[ $(xenstore-read "$front/ring-page-order") = 2 ]]
	if (($(rings) > 1)); then
		[[ $(xenstore-read "$front/multi-queue-num-queues") = $(rings) ]]
		front+=/queue-1
	fi
	xenstore-exists "$front/ring-ref3"
	guest exec two <<-END
		[ "\$(ls /sys/block/xvda/mq | wc -l)" = $(rings) ]
		[ "\$(cat /sys/block/xvda/queue/max_segments)" = 32 ]
		for cpu in 1 $(rings); do
			taskset \$cpu dd if=/dev/xvda of=/dev/null bs=128k count=4 iflag=direct
		done
	END
	tap-ctl stats "vbd-$(xl domid two)-51712" --json |
		jq -e ".xen.rings == $(rings) and .xen.ring_order == 2 and .xen.indirect >= 4"
}

a_guest_sees_its_disk_grow() {
	tap-ctl resize "vbd-$(xl domid two)-51712" 48M
	guest exec two <<-END
		$(when '"$(cat /sys/block/xvda/size)" = 98304')
		dd if=/dev/zero of=/dev/xvda bs=4k count=1 seek=12287 oflag=direct
	END
}

xen_blkback_works_beside_us() { file_system xvdb | guest exec one; }

disks_come_and_go() {
	local keys
	for keys in data=map data=copy feature-persistent=on,poll=100; do
		xl block-attach "$1" "$(disk xvdc w "aio:/store/c.img,$keys")"
		file_system xvdc | guest exec "$1"
		xl block-detach "$1" xvdc
		! pgrep -f tapdisk.*c.img || die "tapdisk stays"
	done
	guest exec "$1" <<<"$(when '! -e /dev/xvdc')" || die "the guest keeps the device"
}

the_syntax_of_2006_works() {
	paused_domain brief tap:aio:/store/p.img,xvda,w tap-xl
	connected brief
	xl destroy brief
	tap-xl block-attach one tap:aio:/store/c.img,xvdd,w
	xl block-list one | grep -q "^51760 "
	xl block-detach one xvdd
}

a_read_only_disk_is_read_only() {
	local before
	before=$(md5sum </store/c.img)
	xl block-attach two "$(disk xvdc r aio:/store/c.img)"
	guest exec two <<-END
		set -e
		$(when "-b /dev/xvdc")
		[ "\$(cat /sys/block/xvdc/ro)" = 1 ]
		dd if=/dev/zero of=/dev/xvdc bs=4k count=1 oflag=direct 2>/dev/null && exit 1
		mount -o ro,noload /dev/xvdc /mnt && umount /mnt
	END
	xl block-detach two xvdc
	[[ $(md5sum </store/c.img) = "$before" ]]
}

# usage: not_attached TARGET MESSAGE
not_attached() {
	local out
	! out=$(xl block-attach two "$(disk xvdc w "$1")" 2>&1) || die "$1 was attached"
	[[ $out = *"$2"* ]] || die "no '$2' in: $out"
}

what_cannot_be_attached_says_why_and_leaves_nothing() {
	not_attached aio:/store/none.img '/store/none.img: No such file'
	soon 30 bash -c "! xenstore-exists /libxl/$(xl domid two)/device/vbd/51744"
	not_attached aio:/store/b.img '/store/b.img'
	soon 30 bash -c "! xenstore-exists /libxl/$(xl domid two)/device/vbd/51744"
	not_attached nonsense:/store/c.img nonsense
	soon 30 bash -c "! xenstore-exists /libxl/$(xl domid two)/device/vbd/51744"
	xl block-attach two "$(disk xvdc w aio:/store/c.img)"
	xl block-detach two xvdc
}

# usage: paused_domain NAME DISK [COMMAND]   (COMMAND: xl, or tap-xl)
paused_domain() {
	local dir=/run/guest/kernel-6.1
	printf '%s\n' "name=\"$1\"" 'type="pv"' "kernel=\"$dir/vmlinux\"" 'memory=96' \
		"disk=['$2']" >"/run/$1.cfg"
	"${3-xl}" create -q -p "/run/$1.cfg"
}

# usage: connected DOMAIN
connected() {
	local back=$self/backend/$(kind)/$(xl domid "$1")/51712
	[[ $(xenstore-read "$back/hotplug-status") = connected ]]
}

# Nobody answers in this domain: its nodes say what we want them to say.
a_front_end_that_writes_garbage_is_told_to_close() {
	local domain front back
	paused_domain silent "$(disk xvda w aio:/store/p.img)"
	domain=$(xl domid silent)
	front=/local/domain/$domain/device/vbd/51712
	back=$self/backend/$(kind)/$domain/51712

	# usage: garbage MESSAGE NODE VALUE...
	garbage() {
		local message=$1 args=()
		shift
		soon 30 bash -c "[ \$(xenstore-read $back/state) = 2 ]"
		xenstore-rm "$front/event-channel" 2>/dev/null
		xenstore-rm "$front/ring-page-order" 2>/dev/null
		xenstore-rm "$front/protocol" 2>/dev/null
		xenstore-rm "$front/multi-queue-num-queues" 2>/dev/null
		while (($#)); do
			args+=("$front/$1" "$2")
			shift 2
		done
		xenstore-write "${args[@]}" "$front/state" 3
		soon 30 bash -c "[ \$(xenstore-read $back/state) = 6 ]"
		[[ $(xenstore-read "$back/error") = *"$message"* ]] ||
			die "no '$message' in: $(xenstore-read "$back/error")"
		xenstore-write "$front/state" 1
		soon 30 bash -c "[ \$(xenstore-read $back/state) = 2 ]"
	}
	garbage "$front/event-channel" ring-ref 8
	garbage "$front/ring-ref" event-channel 5 ring-ref eight
	garbage "$front/event-channel" ring-ref 8 event-channel 99999999999999999999
	garbage "$front/protocol" ring-ref 8 event-channel 5 protocol vax-abi
	garbage "$front/ring-page-order" ring-ref 8 event-channel 5 ring-page-order 5
	garbage "$front/ring-ref1" ring-ref0 8 event-channel 5 ring-page-order 1
	garbage "$front/multi-queue-num-queues" multi-queue-num-queues 17
	garbage "event channel 4000" ring-ref 99999 event-channel 4000
	xenstore-write "$front/state" nonsense
	sleep 0.3
	[[ $(xenstore-read "$back/state") = 2 ]]
	xl destroy silent
	! pgrep -f tapdisk.*p.img || die "tapdisk stays"
	soon 30 bash -c "! xenstore-exists $back"
}

domains_come_and_go() {
	for ((i = 0; i < 3; i++)); do
		paused_domain brief "$(disk xvda w aio:/store/p.img)"
		xl destroy brief
	done
}

tap_ctl_attaches_without_xl() {
	tap-ctl xen-attach two tap:aio:/store/c.img,xvde,w
	file_system xvde | guest exec two
	! tap-ctl xen-attach two tap:aio:/store/d.img,xvde,w 2>/dev/null || die "twice"
	! tap-ctl xen-attach two tap:aio:/store/none.img,xvdf,w 2>/dev/null || die "no image"
	! tap-ctl xen-attach nobody tap:aio:/store/d.img,xvdf,w 2>/dev/null || die "nobody"
	! tap-ctl xen-detach two xvda 2>/dev/null || die "detached xl's disk"
	tap-ctl xen-detach two xvde
	! xenstore-exists "/local/domain/$(xl domid two)/device/vbd/51776"
}

an_image_is_mounted_on_the_host() {
	! tap-ctl xen-attach 0 qcow:/store/h.qcow,xvdh,w 2>/dev/null || die "no image"
	qemu-img create -q -f qcow /store/h.qcow 32M
	tap-ctl xen-attach 0 qcow:/store/h.qcow,xvdh,w
	file_system xvdh | bash
	tap-ctl xen-detach 0 xvdh
	soon 30 test ! -e /dev/xvdh # it goes after the nodes that say so
}

a_new_daemon_finds_disks_under_load() {
	local before
	before=$(pgrep tapdisk | sort)
	load xvda | guest exec two
	for how in TERM KILL; do
		kill "-$how" "$(daemon_pid)"
		sleep 1
		daemon_start
	done
	[[ $(pgrep tapdisk | sort) = "$before" ]] || die "tapdisks changed"
	tap-ctl list | grep -q "$(printf 'vbd-%s-51712 *serving' "$(xl domid two)")"
	! tap-ctl detach "vbd-$(xl domid two)-51712" 2>/dev/null || die "took it from its guest"
	! tap-ctl stop --all 2>/dev/null || die "took all from their guests"
	went_on two
	# And it serves new ones.
	xl block-attach two "$(disk xvdc w aio:/store/c.img)"
	xl block-detach two xvdc
}

a_killed_tapdisk_hurts_its_own_disk_only() {
	local victim
	xl block-attach one "$(disk xvdc w aio:/store/c.img)"
	victim=$(pgrep -f aio:/store/c.img)
	kill -9 "$victim"
	guest exec one <<<'dd if=/dev/zero of=/dev/xvdc bs=4k count=1 oflag=direct >/dev/null 2>&1 </dev/null &'
	file_system xvda | guest exec two
	guest exec one <<<'dd if=/dev/xvda of=/dev/null bs=1M count=4 iflag=direct'
	tap-ctl list | grep -q dead
}

xen_blkback_is_not_needed() {
	modprobe -r xen-blkback
	paused_domain brief "$(disk xvda w aio:/store/p.img)"
	connected brief
	xl destroy brief
	nothing_left
}

# Its guest has a request in it that nobody will answer.
a_killed_tapdisks_disk_is_detached() {
	local domain
	domain=$(xl domid one)
	timeout 60 xl block-detach one xvdc || timeout 60 xl block-detach one xvdc --force
	soon 30 bash -c "! xenstore-exists $self/backend/$(kind)/$domain/51744"
	! tap-ctl list | grep -q c.img || die "the disk stays"
	guest exec one <<<'dd if=/dev/xvda of=/dev/null bs=1M count=4 iflag=direct'
}

# Linux waits for that request in the thread that sees to all of its Xen devices: it would
# take no new ones.
guest_one_starts_anew() {
	guest kill one
	start one --kernel 6.1 "$(disk xvda w qcow:/store/a.qcow)"
}

all_is_gone_when_the_guests_are() {
	if xl domid one >/dev/null 2>&1; then # else it was destroyed by a case before
		load xvda | guest exec one
		xl destroy one
	fi
	guest stop two
	nothing_left
	no_zombies
	no_port_is_left
}

ended_in_order() {
	kill "$(daemon_pid)"
	soon 30 bash -c '! pgrep -x blktapctrl'
	if grep -iE 'assert|sanitizer|runtime error' "$log" ||
		dmesg | grep -E 'BUG:|Oops|traps: (tapdisk|blktapctrl)|(tapdisk|blktapctrl).*segfault'; then
		exit 1
	fi
}

# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lab-ocfs2.sh"
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lab-more.sh"

if (($#)); then
	set -e
	"$@"
	exit
fi
try the_script_says_that_no_daemon_runs
try daemon_start
try images_are_made
try ports_are_counted
try two_guests_start
try a_guest_with_6.1_keeps_its_files_on_qcow
try a_guest_with_6.12_keeps_its_files_on_aio
try what_a_guest_discards_is_given_back
try rings_of_four_pages_are_used
try a_guest_sees_its_disk_grow
try xen_blkback_works_beside_us
try disks_come_and_go two
try the_syntax_of_2006_works
try a_read_only_disk_is_read_only
try what_cannot_be_attached_says_why_and_leaves_nothing
try a_front_end_that_writes_garbage_is_told_to_close
try domains_come_and_go
try tap_ctl_attaches_without_xl
try an_image_is_mounted_on_the_host
try a_guest_is_saved_and_restored
[[ $xen = 4.17 ]] || try 320 a_guest_migrates_with_its_disks
try a_disk_is_detached_under_load two
try a_new_daemon_finds_disks_under_load
try a_killed_tapdisk_hurts_its_own_disk_only
try a_killed_tapdisks_disk_is_detached
if [[ $xen = 4.20 ]]; then
	try a_guest_without_a_driver_boots_from_tapdisk
	[[ ! ${LAB_MORE-} ]] || try 320 an_hvm_guests_own_driver_takes_over
	# once is enough of these: nothing in them depends on xl
	try guest_one_starts_anew
	try two_guests_get_a_network
	try two_guests_attach_one_ram_disk
	try both_guests_mount_ocfs2
	try both_guests_see_what_the_other_writes
	try a_ram_disk_is_saved_while_it_is_used
	try one_guest_is_destroyed_and_the_other_goes_on
	try ocfs2_is_clean_after_all
fi
try all_is_gone_when_the_guests_are
[[ $xen != 4.17 ]] || try 320 a_guest_is_served_by_another
try xen_blkback_is_not_needed
try ended_in_order
((failed)) || exit 0
# A program of Xen's or of the system that faults: seen under emulation only.
if dmesg | grep -E 'traps:|segfault|general protection' | tee /dev/stderr |
	grep -qvE '(tapdisk|blktapctrl|tap-ctl)\['; then
	exit 99
fi
exit 1
