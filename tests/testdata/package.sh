#!/bin/bash
# Installs, runs, upgrades, removes and purges the package, in an overlay over this
# machine: package.sh FOLDER PACKAGE NEXT_PACKAGE, in a mount namespace of its own.
set -euo pipefail
dir=$1
mount -t tmpfs none "$dir"
mkdir "$dir"/{upper,work,system}
cp "$2" "$dir/upper/first.deb"
cp "$3" "$dir/upper/next.deb"
mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/upper,workdir=$dir/work" "$dir/system"
mount --rbind /proc "$dir/system/proc"
mount --rbind /dev "$dir/system/dev"
mount -t tmpfs none "$dir/system/tmp"

chroot "$dir/system" bash -euo pipefail <<'END'
export DEBIAN_FRONTEND=noninteractive
unit=/usr/lib/systemd/system/wssgate.service
config=/etc/wssgate/config.toml
fail() { echo "package.sh: $*" >&2; exit 1; }

dpkg -i /first.deb
[[ $(systemctl --root=/ is-enabled wssgate.service) == enabled ]] || fail "it is not enabled"
[[ $(stat -c '%a %U %G' /etc/wssgate/certs) == "750 root wssgate" ]] || fail "the group can't read certificates"
man -w wssgate wssgate.toml
wssgate check -offline -config $config

# As systemd does, by the lines of the unit; the ports may be in use outside.
sed -i 's/^#wss = .*/wss = "127.0.0.1:0"/; s/^#admin = .*/admin = ""/' $config
run() {
  rm -f /tmp/log
  mkfifo /tmp/log
  setpriv --reuid wssgate --regid wssgate --init-groups $(sed -n 's/^ExecStart=//p' $unit) 2>/tmp/log &
  MAINPID=$!
  exec 3</tmp/log
}
said() {
  while read -r line <&3; do
    echo "$line"
    [[ $line != *"\"msg\":\"$1\""* ]] || return 0
  done
  fail "it ended before it said $1"
}
run
said listening
eval "$(sed -n 's/^ExecReload=//p' $unit)"
said reloaded
kill -TERM $MAINPID
said drained
wait $MAINPID

dpkg --force-confold -i /next.deb
[[ $(dpkg-query -W -f '${Version}' wssgate) == 99.0.0 ]] || fail "it is not upgraded"
grep -qx 'wss = "127.0.0.1:0"' $config || fail "the configuration is not kept"
grep -qx '# Of the next release.' $config.dpkg-dist || fail "the new example is not there"
run
said listening
kill -TERM $MAINPID
said drained
wait $MAINPID

touch /etc/wssgate/certs/kept.pem
dpkg -r wssgate
[[ -e $config && ! -e /usr/bin/wssgate && ! -e $unit ]] || fail "removed, it leaves the wrong files"
[[ ! -e /etc/systemd/system/multi-user.target.wants/wssgate.service ]] || fail "it is enabled, and removed"
dpkg -P wssgate
[[ -e /etc/wssgate/certs/kept.pem && ! -e $config ]] || fail "purged, it leaves the wrong files"
echo "all is well"
END
