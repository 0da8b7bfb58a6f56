# Starts systemd as process 1 of namespaces of its own, on a copy of a root that is shared:
# boot.sh ROOT UPPER WORK MERGED CGROUP. CGROUP is an empty group of the second version's tree.
set -e
if [ -z "$6" ]; then
	echo $$ >"$5/cgroup.procs"
	exec unshare --cgroup --pid --fork --kill-child --mount --uts --ipc sh "$0" "$@" inside
fi
mount --make-rprivate /
mount -t overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" overlay "$4"
cd "$4"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/net dev/pts dev/shm old
for device in null zero full random urandom tty; do
	touch "dev/$device"
	mount --bind "/dev/$device" "dev/$device"
done
mknod -m 666 dev/net/tun c 10 200 # as udev makes it
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
pivot_root . old
exec env -i container=lockstep PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -c \
	'umount -l /old; rmdir /old; exec /lib/systemd/systemd --system --show-status=0 --log-target=console --log-level=warning </dev/null'
