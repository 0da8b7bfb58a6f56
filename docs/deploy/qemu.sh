#!/bin/sh
# Starts one appliance in the foreground: qemu.sh NODE VOLUME TAP-FRONT TAP-BACK TAP-SYNC
#
# The tap devices exist already and are in the bridges of their networks, such as:
#   ip tuntap add tap-front-a mode tap vnet_hdr && ip link set tap-front-a master br-front up
# IMAGE is the built disk (default: bin/image/lockstep.qcow2), STATE where this machine's own disk is
# kept (default: NODE.qcow2). ACCEL=tcg runs without KVM.
set -eu
[ $# = 5 ] || { sed -n 's/^# \{0,1\}//; 2,8p' "$0"; exit 2; }
node=$1 volume=$2 front=$3 back=$4 sync=$5
image=$(realpath "${IMAGE:-bin/image/lockstep.qcow2}")
state=${STATE:-$node.qcow2}
accel=${ACCEL:-kvm}
cpu=host
[ "$accel" = kvm ] || cpu=max
[ -e "$state" ] || qemu-img create -q -f qcow2 -F qcow2 -b "$image" "$state"

# A MAC for each NIC, the same at every start. Those of a and b are pair.example.yaml's.
case $node in
a) n=1 ;;
b) n=2 ;;
*) n=$(printf %s "$node" | cksum | cut -d' ' -f1) ;;
esac
mac() { printf '52:54:00:%s:%02x:%02x' "$1" $((n / 256 % 256)) $((n % 256)); }
nic() { printf 'virtio-net-pci,netdev=%s,mac=%s' "$1" "$(mac "$2")"; }
echo "MACs: front $(mac 10), back $(mac 20), sync $(mac 30); control socket: $node.control" >&2

exec qemu-system-x86_64 -name "lockstep-$node" -nodefaults -machine "q35,accel=$accel" -cpu "$cpu" -smp 2 -m 512 \
  -bios /usr/share/ovmf/OVMF.fd \
  -drive "if=virtio,format=qcow2,file=$state" \
  -drive "if=virtio,format=raw,readonly=on,file=$volume" \
  -netdev "tap,id=front,ifname=$front,script=no,downscript=no" -device "$(nic front 10)" \
  -netdev "tap,id=back,ifname=$back,script=no,downscript=no" -device "$(nic back 20)" \
  -netdev "tap,id=sync,ifname=$sync,script=no,downscript=no" -device "$(nic sync 30)" \
  -device i6300esb -action watchdog=reset -device virtio-rng-pci \
  -device virtio-serial-pci -chardev "socket,id=control,path=$node.control,server=on,wait=off" \
  -device virtserialport,chardev=control,name=org.lockstep.control.0 \
  -vga std -display vnc=127.0.0.1:0,to=9 -serial mon:stdio
