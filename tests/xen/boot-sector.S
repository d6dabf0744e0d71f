/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the firmware of a guest boots from a disk in the lab: reads 4 KiB at sector 8,
 * inverts them, writes them at sector 16, reads those again and says over the serial
 * line whether they are the same. It has no driver: all this is the emulated disk, by
 * the firmware's extended calls (int 13h, functions 42h and 43h). Then it rests.
 */
	.code16
	.globl	_start
_start:
	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	$0x7c00, %sp
	sti
	cld
	movb	%dl, drive
	movw	$started, %si
	call	say

	movb	$0x42, %ah
	movw	$from, %si
	call	disk

	movw	$0x8000, %di
	movw	$2048, %cx
1:	notw	(%di)
	addw	$2, %di
	loop	1b

	movb	$0x43, %ah
	movw	$to, %si
	call	disk
	movb	$0x42, %ah
	movw	$again, %si
	call	disk

	movw	$0x8000, %si
	movw	$0x9000, %di
	movw	$2048, %cx
	repe	cmpsw
	movw	$same, %si
	je	2f
	movw	$differs, %si
2:	call	say
rest:
	hlt
	jmp	rest

/* Function %ah of the disk with the packet at %si. */
disk:
	movb	drive, %dl
	xorb	%al, %al
	int	$0x13
	jc	3f
	ret
3:	movw	$failed, %si
	jmp	2b

/* The text at %si, by the first serial port. */
say:
	lodsb
	testb	%al, %al
	jz	5f
	movb	%al, %ah
	movw	$0x3fd, %dx
4:	inb	%dx, %al
	testb	$0x20, %al
	jz	4b
	movw	$0x3f8, %dx
	movb	%ah, %al
	outb	%al, %dx
	jmp	say
5:	ret

drive:	.byte	0
started: .asciz	"boot sector: started\r\n"
same:	.asciz	"boot sector: the same\r\n"
differs: .asciz	"boot sector: it differs\r\n"
failed:	.asciz	"boot sector: int 13h failed\r\n"

/* Size, reserved, sectors, offset and segment in memory, sector of the disk. */
	.balign	4
from:	.byte	16, 0
	.word	8, 0x8000, 0
	.quad	8
to:	.byte	16, 0
	.word	8, 0x8000, 0
	.quad	16
again:	.byte	16, 0
	.word	8, 0x9000, 0
	.quad	16

	.org	510
	.word	0xaa55
