#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# tap-xl rewrites the disk syntax of 2006 for old and new xl, and leaves the rest
# alone. xl here is a script that tells its version and shows what it was given.
set -u
tap_xl=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
PATH=$work:$PATH
failed=0

cat >"$work/xl" <<'END'
#!/bin/sh
if [ "$1" = info ]; then echo "xen_version            : $XEN"; exit; fi
for word; do if [ -f "$word" ]; then cat "$word"; else echo "<$word>"; fi; done
END
chmod +x "$work/xl"

# usage: expect NAME EXPECTED ACTUAL
expect() {
	if [[ $2 != "$3" ]]; then
		printf '%s: wanted\n%s\ngot\n%s\n' "$1" "$2" "$3"
		failed=1
	fi
}

cat >"$work/guest.cfg" <<'END'
name = "guest"
# disk = ['tap:qcow:/no,sda1,w']
extra = "tap:no:no,x,w"
disk = [ 'tap:qcow:/a b,sda1,w', "phy:/dev/x,xvdb,w",
	'tap:ram:n,size=64M,hdc:cdrom,r' ]
kernel = "tap:no:no,x,w"
END
for XEN in 4.17.7 4.20.4; do
	export XEN
	new=script=block-tap
	[[ $XEN = 4.17* ]] || new=backendtype=tap,script=block-tap,format=raw
	expect "create on $XEN" "$(cat <<END
<create>
<-p>
name = "guest"
# disk = ['tap:qcow:/no,sda1,w']
extra = "tap:no:no,x,w"
disk = [ '$new,vdev=sda1,access=w,target=qcow:/a b', "phy:/dev/x,xvdb,w",
	'$new,vdev=hdc,access=r,devtype=cdrom,target=ram:n,size=64M' ]
kernel = "tap:no:no,x,w"
END
)" "$("$tap_xl" create -p "$work/guest.cfg")"
	expect "block-attach on $XEN" "<block-attach>
<g>
<$new,vdev=xvdb,access=r,target=aio:/img>" "$("$tap_xl" block-attach g tap:aio:/img,/dev/xvdb,r)"
	expect "block-attach as xm took it, on $XEN" "<block-attach>
<g>
<$new,vdev=xvdb,access=w,target=qcow:/img>" "$("$tap_xl" block-attach g tap:qcow:/img xvdb w)"
done
# What is in quotes or behind a # ends nothing.
cat >"$work/odd.cfg" <<'END'
name='a]'; disk = [ # first ]
	'tap:aio:/img/a[1].img,xvda,w', # 'tap:no:no,x,w' ]
	"tap:aio:/img/it's,xvdb,w"
	, 'tap:aio:/c#d,xvdc,r' ]; extra = 'tap:no:no,x,w'
  disk += [ 'phy:/dev/x,xvdd,w', 'tap2:qcow:/e,xvde' ]
vif=[ 'tap:no:no,x,w' ]
END
printf "disk='tap:aio:/f,xvdf,w'" >>"$work/odd.cfg" # and no end of line
export XEN=4.20.4
expect "odd lists" "$(cat <<END
<create>
name='a]'; disk = [ # first ]
	'$new,vdev=xvda,access=w,target=aio:/img/a[1].img', # 'tap:no:no,x,w' ]
	"$new,vdev=xvdb,access=w,target=aio:/img/it's"
	, '$new,vdev=xvdc,access=r,target=aio:/c#d' ]; extra = 'tap:no:no,x,w'
  disk += [ 'phy:/dev/x,xvdd,w', '$new,vdev=xvde,access=w,target=qcow:/e' ]
vif=[ 'tap:no:no,x,w' ]
disk='$new,vdev=xvdf,access=w,target=aio:/f'
END
)" "$("$tap_xl" create "$work/odd.cfg")"
expect "a disk among the words" "<create>
<name=\"a\";disk=['$new,vdev=xvda,access=w,target=aio:/a']>" \
	"$("$tap_xl" create "name=\"a\";disk=['tap:aio:/a,xvda,w']")"
expect "other disks" "<block-attach>
<g>
<phy:/dev/x,xvdb,w>" "$("$tap_xl" block-attach g phy:/dev/x,xvdb,w)"
expect "other commands" "<list>
<-l>" "$("$tap_xl" list -l)"
for bad in tap:/img,xvda,w tap:qcow:/img tap:qcow:/img,w; do
	if out=$("$tap_xl" block-attach g "$bad" 2>&1); then
		echo "$bad was taken: $out"
		failed=1
	elif [[ $out != "tap-xl: $bad: "* ]]; then
		echo "$bad: no clear message: $out"
		failed=1
	fi
done
[[ -z $(find "${TMPDIR:-/tmp}" -maxdepth 1 -name 'tap-xl.*' -user "$(id -u)" -newer "$work/xl") ]] ||
	{ echo "tap-xl left a file behind"; failed=1; }
exit $failed
