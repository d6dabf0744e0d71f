#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# What is measured on one disk, the same in a guest and, as native, in domain 0:
#
#   disk.sh DEVICE make                  a file system on it, and randio's file
#   disk.sh DEVICE random SECONDS DEPTH...   randio's lines, reads and writes
#   disk.sh DEVICE bonnie MIB RAM        bonnie++'s line, between two lines "bonnie TIME"
#   disk.sh DEVICE end                   unmounts it
set -e
device=$1 verb=$2
shift 2
at=/mnt/bench
case $verb in
make)
	mkdir -p $at
	mkfs.ext4 -q -F -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 -J size=16 \
		-N 2048 "$device"
	mount -t ext4 "$device" $at
	randio fill $at/randio 64
	;;
random)
	seconds=$1
	shift
	for depth in "$@"; do
		for side in read write; do
			randio $side $at/randio 64 "$depth" "$seconds"
		done
	done
	;;
bonnie)
	echo "bonnie $EPOCHREALTIME"
	bonnie++ -q -d $at -s "$1M" -r "$2" -f -n 0 -u root 2>/dev/null
	echo "bonnie $EPOCHREALTIME"
	;;
end)
	umount $at
	;;
esac
