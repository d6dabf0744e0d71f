/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The formats that the explorer knows, a row for each way to have an image, and
 * the rules of ordering whose breaking must be noticed.
 */
#include "explore.h"

const struct format formats[] = {
	{ .name = "aio", .type = "aio", .template = "aio:%f", .kills = true, .states = 2 },
	{ .name = "aio-grows", .type = "aio", .template = "aio:%f", .kills = true,
	  .grows_to = DISK_SIZE + 700 * KiB, .states = 1 },
	{ .name = "qcow", .type = "qcow", .kills = true, .qemu = "qcow", .states = 2 },
	{ .name = "qcow-overlay", .type = "qcow", .overlay = true, .kills = true,
	  .qemu = "qcow", .states = 2 },
	{ .name = "qcow-compressed", .type = "qcow", .packed = true, .kills = true,
	  .qemu = "qcow" },
	/* tables of a cluster's size: many of them, and L1 entries that change */
	{ .name = "qcow-many-tables", .type = "qcow", .cluster = 512, .kills = true,
	  .qemu = "qcow", .states = 1 },
	{ .name = "qcow-overlay-many-tables", .type = "qcow", .cluster = 512,
	  .overlay = true, .kills = true, .qemu = "qcow", .states = 1 },
	{ .name = "qcow-encrypted", .type = "qcow", .encrypted = true, .overlay = true,
	  .create = "encryption=aes,weak=on", .cluster = 4096, .kills = true, .qemu = "qcow" },
	/* L1 moves */
	{ .name = "qcow-grows", .type = "qcow", .cluster = 512, .kills = true,
	  .grows_to = 4 * MiB, .qemu = "qcow", .states = 1 },
	{ .name = "qcow2", .type = "qcow2", .kills = true, .qemu = "qcow2", .qemu_checks = true,
	  .states = 2 },
	{ .name = "qcow2-overlay", .type = "qcow2", .overlay = true, .kills = true,
	  .qemu = "qcow2", .qemu_checks = true, .states = 2 },
	{ .name = "qcow2-encrypted", .type = "qcow2", .encrypted = true, .overlay = true,
	  .cluster = 4096, .kills = true, .qemu = "qcow2", .qemu_checks = true },
	{ .name = "qcow2-compressed", .type = "qcow2", .packed = true, .kills = true,
	  .qemu = "qcow2", .qemu_checks = true, .states = 1 },
	/* refcount blocks and L2 tables of a cluster's size: many of them */
	{ .name = "qcow2-small", .type = "qcow2", .cluster = 512, .kills = true,
	  .qemu = "qcow2", .qemu_checks = true, .states = 2 },
	{ .name = "qcow2-overlay-small", .type = "qcow2", .cluster = 512, .overlay = true,
	  .kills = true, .qemu = "qcow2", .qemu_checks = true, .states = 2 },
	{ .name = "qcow2-subclusters", .type = "qcow2", .overlay = true, .kills = true,
	  .make = "qemu-img create -q -f qcow2 -o extended_l2=on,cluster_size=16K -b %b -F raw %f",
	  .qemu = "qcow2", .qemu_checks = true, .states = 1 },
	{ .name = "qcow2-data-file", .type = "qcow2", .options = ",data-file=on", .overlay = true,
	  .kills = true,
	  .make = "qemu-img create -q -f qcow2 -o data_file=%f.raw,cluster_size=4K -b %b -F raw %f",
	  .qemu = "qcow2", .qemu_checks = true, .states = 1 },
	/* all is shared with a snapshot; a refcount table that becomes too short */
	{ .name = "qcow2-snapshot", .type = "qcow2", .overlay = true, .kills = true,
	  .make = "qemu-img convert -f raw -O qcow2 -o cluster_size=4K %b %f && "
		  "qemu-img snapshot -c s %f",
	  .qemu = "qcow2", .qemu_checks = true, .states = 2 },
	{ .name = "qcow2-subclusters-snapshots", .type = "qcow2", .overlay = true, .kills = true,
	  .make = "qemu-img create -q -f qcow2 -o extended_l2=on,cluster_size=16K -b %b -F raw %f",
	  .snapshots = true, .qemu = "qcow2", .qemu_checks = true },
	/* others' header, which takes more than a sector; names of all lengths */
	{ .name = "qcow2-rebases", .type = "qcow2", .overlay = true, .kills = true,
	  .make = "qemu-img create -q -f qcow2 -o cluster_size=4K -b %b -F raw %f",
	  .rebases = true, .long_names = true, .qemu = "qcow2", .qemu_checks = true },
	{ .name = "qcow2-lazy-changes", .type = "qcow2", .kills = true,
	  .make = "qemu-img create -q -f qcow2 -o cluster_size=512,lazy_refcounts=on %f %s",
	  .grows_to = 4 * MiB, .snapshots = true, .qemu = "qcow2", .qemu_checks = true },
	/* no dirty bit: for qemu-img's check bits 63 that are missing are errors */
	{ .name = "qcow2-version-2-snapshots", .type = "qcow2", .kills = true,
	  .make = "qemu-img create -q -f qcow2 -o cluster_size=4K,compat=0.10 %f %s",
	  .snapshots = true, .qemu = "qcow2" },
	{ .name = "qcow2-version-2-grows", .type = "qcow2", .kills = true,
	  .make = "qemu-img create -q -f qcow2 -o cluster_size=512,compat=0.10 %f %s",
	  .grows_to = 4 * MiB, .qemu = "qcow2", .qemu_checks = true },
	/* bitmaps are read, marked, and stored at the end */
	{ .name = "qcow2-bitmaps", .type = "qcow2", .kills = true,
	  .make = "qemu-img create -q -f qcow2 -o cluster_size=4K %f %s && "
		  "qemu-img bitmap --add -g 512 %f one && qemu-img bitmap --add %f two",
	  .grows_to = 4 * MiB, .qemu = "qcow2", .qemu_checks = true },
	/* small clusters: L1 has no room, and moves */
	{ .name = "qcow2-grows", .type = "qcow2", .cluster = 512, .kills = true,
	  .grows_to = 4 * MiB, .qemu = "qcow2", .qemu_checks = true },
	/* ... and what more there is below is never seen */
	{ .name = "qcow2-grows-over-more", .type = "qcow2", .cluster = 512, .overlay = true,
	  .size = 1 * MiB, .base_size = 2 * MiB, .grows_to = 3 * MiB, .kills = true,
	  .qemu = "qcow2", .qemu_checks = true },
	{ .name = "qcow2-snapshots-change", .type = "qcow2", .cluster = 4096, .kills = true,
	  .snapshots = true, .qemu = "qcow2", .qemu_checks = true, .states = 1 },
	/* marked dirty, refcounts wrong: the repair is part of the run */
	{ .name = "qcow2-dirty", .type = "qcow2", .overlay = true, .kills = true,
	  .make = "qemu-img convert -f raw -O qcow2 -o cluster_size=4K,lazy_refcounts=on %b %f && "
		  "head -c 300 /dev/zero | dd of=%f bs=1 seek=8200 conv=notrunc status=none && "
		  "printf '\\001' | dd of=%f bs=1 seek=79 conv=notrunc status=none",
	  .qemu = "qcow2", .qemu_checks = true, .states = 1 },
	{ .name = "qcow2-table", .type = "qcow2", .kills = true,
	  .make = "qemu-img create -q -f qcow2 -o cluster_size=512,refcount_bits=64 %f %s",
	  .size = 4 * MiB, .qemu = "qcow2", .qemu_checks = true, .states = 1 },
	/* qemu-img does not look at bitmaps, and knows no parents */
	{ .name = "vhd", .type = "vhd", .kills = true, .qemu = "vpc", .states = 1 },
	{ .name = "vhd-small", .type = "vhd", .cluster = 4096, .kills = true, .qemu = "vpc",
	  .states = 1 },
	{ .name = "vhd-overlay", .type = "vhd", .overlay = true, .kills = true, .states = 1 },
	{ .name = "vhd-overlay-small", .type = "vhd", .cluster = 4096, .overlay = true,
	  .kills = true, .states = 1 },
	/* the block table has no room, and moves; a footer that moves past the disk's end */
	{ .name = "vhd-grows", .type = "vhd", .cluster = 4096, .kills = true, .grows_to = 4 * MiB,
	  .qemu = "vpc" },
	{ .name = "vhd-fixed-grows", .type = "vhd", .kills = true, .grows_to = 3 * MiB,
	  .make = "qemu-img create -q -f vpc -o subformat=fixed,force_size=on %f %s",
	  .qemu = "vpc" },
	{ .name = "vhd-rebases", .type = "vhd", .cluster = 4096, .overlay = true, .kills = true,
	  .rebases = true },
	/* qemu-img knows no parents. A raw one is our own idea */
	{ .name = "vhdx-overlay", .type = "vhdx", .overlay = true, .cluster = 1 * MiB,
	  .whole = 1 * MiB, .kills = true },
	/* a batch takes several entries of the log */
	{ .name = "vhdx-overlay-many-entries", .type = "vhdx", .overlay = true,
	  .cluster = 1 * MiB, .whole = 1 * MiB, .limit = "format-log-pages", .limit_is = 1,
	  .kills = true },
	{ .name = "vhdx-grows", .type = "vhdx", .cluster = 1 * MiB, .kills = true,
	  .whole = 1 * MiB, .grows_to = 4 * MiB, .qemu = "vhdx", .qemu_checks = true },
	/* a last block that is the parent's in part */
	{ .name = "vhdx-grows-over-more", .type = "vhdx", .overlay = true, .cluster = 1 * MiB,
	  .size = 1 * MiB + 300 * KiB, .base_size = 3 * MiB, .grows_to = 4 * MiB, .kills = true },
	{ .name = "vhdx-rebases", .type = "vhdx", .overlay = true, .cluster = 1 * MiB,
	  .kills = true, .rebases = true, .states = 1 },
	/* qemu-img's check takes places without an owner for faults. It reads blocks of
	 * 1 MiB only. */
	{ .name = "vdi", .type = "vdi", .kills = true, .qemu = "vdi", .states = 1 },
	{ .name = "vdi-small", .type = "vdi", .cluster = 4096, .kills = true, .states = 2 },
	/* small blocks: the map has no room, and moves */
	{ .name = "vdi-grows", .type = "vdi", .cluster = 4096, .kills = true, .grows_to = 4 * MiB },
	{ .name = "vmdk", .type = "vmdk", .kills = true, .qemu = "vmdk", .qemu_checks = true,
	  .states = 1 },
	{ .name = "vmdk-small", .type = "vmdk", .cluster = 4096, .kills = true, .qemu = "vmdk",
	  .qemu_checks = true, .states = 1 },
	{ .name = "vmdk-overlay", .type = "vmdk", .overlay = true, .cluster = 4096, .kills = true,
	  .states = 1 },
	/* more tables, and a directory that moves; a descriptor that changes */
	{ .name = "vmdk-grows", .type = "vmdk", .cluster = 4096, .kills = true, .grows_to = 5 * MiB,
	  .qemu = "vmdk", .qemu_checks = true },
	{ .name = "vmdk-grows-over-more", .type = "vmdk", .cluster = 4096, .overlay = true,
	  .create = "zeroed_grain=on", .size = 1 * MiB, .base_size = 2 * MiB, .grows_to = 5 * MiB,
	  .kills = true },
	{ .name = "vmdk-flat-grows", .type = "vmdk", .kills = true, .grows_to = 3 * MiB,
	  .make = "qemu-img create -q -f vmdk -o subformat=monolithicFlat %f %s",
	  .qemu = "vmdk" },
	{ .name = "vmdk-rebases", .type = "vmdk", .overlay = true, .cluster = 4096, .kills = true,
	  .rebases = true },
	{ .name = "vmdk-zeroed-grains", .type = "vmdk", .kills = true,
	  .make = "qemu-img create -q -f vmdk -o zeroed_grain=on %f %s", .qemu = "vmdk",
	  .qemu_checks = true },
	{ .name = "vmdk-split", .type = "vmdk", .kills = true,
	  .make = "for n in 1 2 3 4; do qemu-img create -q -f vmdk %f-$n.vmdk 256K || exit 1; "
		  "done; f=%f; { echo '# Disk DescriptorFile'; echo CID=12345678; "
		  "echo parentCID=ffffffff; echo 'createType=\"twoGbMaxExtentSparse\"'; "
		  "for n in 1 2 3 4; do echo RW 512 SPARSE '\"'${f##*/}-$n.vmdk'\"'; done; } >$f",
	  .size = 1 * MiB, .grows_to = 3 * MiB, .qemu = "vmdk", .states = 1 },
	{ 0 },
};

const struct broken broken_rules[] = {
	{ "qcow-l1-before-header", "qcow-grows" },
	{ "qcow2-counts-before-clean", "qcow2-dirty" },
	{ "qcow2-shown-before-header", "qcow2-grows" },
	{ "qcow2-flags-before-owners", "qcow2-version-2-snapshots" },
	{ "format-room-before-entry", "qcow" },
	{ "format-data-before-entry", "qcow-overlay" },
	{ "format-stages-in-order", "qcow2-snapshot" },
	{ "format-drops-after-entries", "qcow2-overlay-small" },
	{ "format-page-marked-before-change", "qcow2" },
	{ "vhd-table-before-header", "vhd-grows" },
	{ "vhd-header-before-footer", "vhd-rebases" },
	{ "vdi-map-before-header", "vdi-grows" },
	{ "vmdk-directory-before-header", "vmdk-grows" },
	{ "vmdk-marked-before-tables", "vmdk-small" },
	{ "format-data-before-log", "vhdx-overlay" },
	{ "format-log-before-places", "vhdx-overlay" },
	{ "vhdx-log-open-before-entries", "vhdx-overlay" },
	{ 0 },
};
