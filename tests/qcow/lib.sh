# SPDX-License-Identifier: LGPL-2.1-or-later
driver=qcow qemu=qcow
. "$(dirname "${BASH_SOURCE[0]}")/../images/lib.sh"
